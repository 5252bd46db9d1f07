"""One export: write the file, run it, and measure how far it is off."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._core import quantization
from tfmp._exporting.export_report import ExportedLayer
from tfmp._exporting.plain_model import describe, expected_sqnr, plain
from tfmp._exporting.runtimes import Format, flex_operators
from tfmp.conversion.records import flatten

FLEX = (
    "not checked: its operators {} run only where LiteRT's Flex delegate is "
    "linked in; recurrent layers need none with unroll=True"
)
NOT_THE_SAME = (
    "the runtime computes something else; min_sqnr=-math.inf accepts all"
)
TOO_FAR = (
    "check with real `inputs`, leave sensitive layers out of FP8, or lower "
    "`min_sqnr`"
)


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that an export was asked for, checked.

    Attributes:
        model: built.
        format: who writes and runs the file.
        kernels: `"float8"`, `"quantized"` or `"float"`.
        signature: specs of the model's arguments.
        values: an array for each spec.
    """

    model: keras.Model
    format: Format
    kernels: str
    signature: list[Any]
    values: list[np.ndarray]

    @staticmethod
    def expected_sqnr(model: keras.Model) -> float:
        """Returns what rounding leaves of the outputs at the least, in dB."""
        return expected_sqnr(model)

    def run(self, path: str, min_sqnr: float) -> dict[str, Any]:
        """Writes the file and checks it.

        Returns:
            The fields of a report that say how.

        Raises:
            RuntimeError: if the file does not run.
            ValueError: if the outputs are too far from the model's.
        """
        version = self.format.version()
        expected = self.outputs() if version else None
        with self.as_exported():
            same = self.outputs() if version else None
            self.write(path)
        if version is None:
            package = self.format.runtime[1]
            return {"notes": (f"not checked: pip install {package}",)}
        if flex := flex_operators(path):
            return {"notes": (FLEX.format(", ".join(flex)),)}
        found = self.in_runtime(path, version, expected)
        return {
            "runtime": version,
            **self.compare(expected, same, found, min_sqnr),
        }

    def write(self, path: str) -> None:
        """Writes the file, while the layers are as they are to be in it."""
        self.format.write(self.model, path, self.signature)

    def describe(self) -> tuple[ExportedLayer, ...]:
        """Returns a row for each layer with weights or FP8 products."""
        return describe(self.model, self.kernels)

    def in_runtime(self, path: str, version: str, like: Any) -> list[Any]:
        """Runs the file.

        Raises:
            RuntimeError: if it does not run.
        """
        names = [spec.name for spec in keras.tree.flatten(self.signature)]
        try:
            return self.format.run(path, names, self.values, like)
        except Exception as error:
            raise RuntimeError(
                f"the exported file does not run in {version}: {error}"
            ) from error

    def compare(
        self, expected: Any, same: Any, found: list[Any], min_sqnr: float
    ) -> dict[str, Any]:
        """Returns how far the file's outputs are off.

        Args:
            expected: outputs of the model.
            same: those of the layers that were exported, run by Keras; None
                if it is Keras that has run what was found.
            found: those of the file.
            min_sqnr: what is asked for.
        """
        sqnr, error = distance(expected, found)
        conversion = None
        if same is not None:
            conversion, _ = distance(same, found)
            exact = min_sqnr
            if self.kernels != "float8" and min_sqnr > -math.inf:
                exact = expected_sqnr(self.model, exact=True)
            _check(conversion, exact, "its layers run by Keras", NOT_THE_SAME)
        _check(sqnr, min_sqnr, "the model", TOO_FAR)
        return {
            "sqnr": sqnr,
            "max_abs_error": error,
            "conversion_sqnr": conversion,
            "min_sqnr": min_sqnr,
        }

    def as_exported(self) -> contextlib.AbstractContextManager[None]:
        """Has the model's layers run as in the file, for a `with` block."""
        if self.kernels == "float8":
            return contextlib.nullcontext()
        return plain(self.model, self.kernels)

    def outputs(self) -> Any:
        """Returns what the model gives; states it has stay as they are."""
        state = _state(self.model)
        before = [keras.ops.convert_to_numpy(v).copy() for v in state]
        tensors = [tf.convert_to_tensor(value) for value in self.values]
        arguments = keras.tree.pack_sequence_as(self.signature, tensors)
        try:
            return self.model(*arguments, training=False)
        finally:
            for variable, value in zip(state, before, strict=True):
                if not np.array_equal(variable, value):
                    variable.assign(value)


def _state(model: keras.Model) -> list[keras.Variable]:
    """Returns what a call may change; Keras does not list recurrent states."""
    recurrent = [
        layer.states
        for layer in flatten(model).values()
        if isinstance(layer, keras.layers.RNN) and layer.stateful
    ]
    return [*model.non_trainable_variables, *keras.tree.flatten(recurrent)]


def distance(expected: Any, found: list[Any]) -> tuple[float, float]:
    """Returns the worst SQNR of all outputs in dB, and the largest error.

    Args:
        expected: a structure of tensors; integers count as numbers too.
        found: the same, flat.

    Raises:
        ValueError: if there are more or fewer, or of other shapes.
    """
    pairs = [
        tuple(np.asarray(tf.cast(t, tf.float32)) for t in pair)
        for pair in zip(tf.nest.flatten(expected), found, strict=True)
    ]
    ratios = [float(quantization.sqnr(*pair)) for pair in pairs]
    errors = [float(np.max(np.abs(x - y), initial=0.0)) for x, y in pairs]
    return min(ratios, key=lambda r: (not math.isnan(r), r)), max(errors)


def _check(sqnr: float, least: float, of_what: str, advice: str) -> None:
    if least == -math.inf or sqnr >= least:
        return
    if math.isnan(sqnr):
        raise ValueError(
            f"the outputs of {of_what} or of the exported file are not finite "
            "with these inputs: pass others as `inputs`, or "
            f"min_sqnr=-math.inf to accept all. Received: {sqnr} dB"
        )
    raise ValueError(
        f"the exported file must be {least:.1f} dB or more from {of_what}: "
        f"{advice}. Received: {sqnr:.1f} dB"
    )
