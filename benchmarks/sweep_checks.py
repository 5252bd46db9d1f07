"""What `model_sweep.py` does with one model, in a process of its own.

A check is a cell of the table: what it found, or the error; what fails is done
again by Keras alone, under its own policy of 16 bits and in float32, which
tells whose fault it is.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import sweep_subjects
import tensorflow as tf
from sweep_inputs import BATCH
from sweep_measures import decibel, distance, joined, nature, same, words
from sweep_models import TOKENS
from sweep_subjects import Subject

import tfmp

STEPS = 3
NARROW = ("float8", "bfloat16", "float16")
MODES = ("XLA", "graph", "graph")  # by precision
NOT_FINITE = "not finite"
Cell = dict[str, Any]


class Way(NamedTuple):
    """Whose policy a model computes by, and in what."""

    library: str
    precision: str

    def __str__(self) -> str:
        return f"{self.library}, {self.precision}"


PLAIN = Way("Keras", "float32")


class Trial:
    """One model, its data, and what is found.

    Args:
        subject: which model.
        path: a file for the cells, written after each of them.
        quick: whether to leave out what runs in FP8, and trainings.
    """

    def __init__(
        self, subject: Subject, path: str, quick: bool = False
    ) -> None:
        self.subject, self.path = subject, pathlib.Path(path)
        self.quick = quick
        self.cells: dict[str, Cell] = {}
        self.folder = tempfile.TemporaryDirectory()

    def run(self) -> None:
        """Makes the checks, and writes what each finds."""
        warnings.simplefilter("ignore")
        if not self.check("makes", lambda way: self.prepare(), PLAIN):
            return
        low = Way("tfmp", "float8")
        self.check("converts", self.converts, low)
        self.check("reverts", self.reverts, low)
        for library in ("tfmp", "Keras"):
            for precision in NARROW[1:]:
                way = Way(library, precision)
                self.check(f"values, {way}", self.values, way)
        if not self.quick:
            self.run_whole(low)

    def run_whole(self, low: Way) -> None:
        """Makes the checks that run in FP8, and the trainings."""
        self.check(f"values, {low}", self.values, low)
        for mode, precision in self.trainings():
            do = self.xla if mode == "XLA" else self.graph
            self.check(f"{mode}, {precision}", do, Way("tfmp", precision))
        self.check("saves and loads", self.saves, low)
        if self.subject.is_whole:
            turn = zlib.crc32(self.subject.name.encode()) % 4
            if turn == 0 or self.subject.library != "keras-hub":
                self.check("exports", self.exports, low)
            elif turn == 1:
                self.check("LoRA", self.lora, low)
        if hasattr(self.reference, "generate_step"):
            self.check("generates", self.generates, low)

    def trainings(self) -> list[tuple[str, str]]:
        """Returns in what to train: a task does what its backbone does not."""
        if not self.subject.is_whole:
            return [("graph", "float8"), ("graph", "float16")]
        if not self.subject.is_only:
            return [("XLA", "float8")]
        return [(mode, NARROW[n]) for n, mode in enumerate(MODES)]

    def check(self, name: str, do: Callable[[Way], Any], way: Way) -> bool:
        """Writes a cell; returns whether all is well."""
        start = time.perf_counter()
        self.note(name, {"running": True})
        cell = outcome(do, way)
        if "error" in cell and name != "makes" and way.library == "tfmp":
            cell["fault"] = blame(do, way)
        cell["seconds"] = round(time.perf_counter() - start, 1)
        self.note(name, cell)
        return "error" not in cell

    def note(self, name: str, cell: Cell) -> None:
        """Writes what is found so far, whole or not at all."""
        self.cells[name] = cell
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.cells))
        draft.replace(self.path)

    def prepare(self) -> str:
        """Makes the model in float32, and all that others are held against."""
        self.reference = sweep_subjects.model_of(self.subject)
        self.x = sweep_subjects.inputs_of(self.subject, self.reference)
        outputs = self.reference(self.x, training=False)
        self.loss, self.y = sweep_subjects.labels_of(self.subject, outputs)
        self.weights = self.reference.get_weights()
        self.expected = self.measure(self.reference)
        return f"{self.reference.count_params()} parameters"

    def model(self, way: Way) -> keras.Model:
        """Makes the model once more, with the same weights, in a precision."""
        low, own = way.precision != "float32", way.library == "Keras"
        policy = f"mixed_{way.precision}" if own and low else "float32"
        keras.config.set_dtype_policy(policy)
        try:
            model = sweep_subjects.model_of(self.subject)
        finally:
            keras.config.set_dtype_policy("float32")
        model.set_weights(self.weights)
        if not own:
            self.report = convert(model, way.precision)
        return model

    def measure(self, model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
        """Returns outputs and gradients, each as one vector."""
        with tf.GradientTape() as tape:
            found = keras.tree.flatten(model(self.x, training=False))
            found = [
                tf.cast(each, "float32")
                for each in found
                if keras.backend.is_float_dtype(each.dtype)
            ]
            loss = tf.add_n([distance(each) for each in found])
        kept = [v.value for v in model.trainable_variables]
        gradients = tape.gradient(loss, kept, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(each) for each in gradients]
        return joined(found), joined(gradients)

    def converts(self, way: Way) -> str:
        """Converts, and has the report print itself."""
        self.model(way)
        share = getattr(self, "report", None)
        if way.library == "Keras" or share is None:
            return ""
        json.dumps(share.to_dict())
        lines = str(share).splitlines()
        low = sum(row.precision == "float8" for row in share.rows)
        if not low:
            raise ValueError(f"no layer in FP8: {lines[-1]}")
        return f"{low} layers, {share.float8_share:.0%}"

    def values(self, way: Way) -> str:
        """Returns how far outputs and gradients are from float32's, in dB."""
        found = self.measure(self.model(way))
        if not all(np.isfinite(each).all() for each in found):
            raise ArithmeticError(NOT_FINITE)
        pairs = zip(self.expected, found, strict=True)
        return " / ".join(decibel(*pair) for pair in pairs)

    def graph(self, way: Way) -> str:
        """Trains without XLA."""
        return self.fit(self.model(way), jit_compile=False)

    def xla(self, way: Way) -> str:
        """Trains under XLA."""
        return self.fit(self.model(way), jit_compile=True)

    def fit(self, model: keras.Model, steps: int = STEPS, **how: Any) -> str:
        """Trains on one batch; returns the first and the last loss."""
        given = {} if self.loss is None else {"loss": self.loss}
        model.compile(keras.optimizers.Adam(1e-3), **given, **how)
        history = model.fit(
            self.x, self.y, epochs=steps, verbose=0, batch_size=BATCH
        )
        losses = history.history["loss"]
        if not np.isfinite(losses).all():
            raise ArithmeticError(f"loss {NOT_FINITE}")
        return f"{losses[0]:.3g} to {losses[-1]:.3g}"

    def saves(self, way: Way) -> str:
        """A file gives the same outputs, bit for bit."""
        model = self.model(way)
        path = f"{self.folder.name}/model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
        same(self.outputs(model), self.outputs(loaded))
        return "same bits"

    def reverts(self, way: Way) -> str:
        """The layers, weights and outputs are those from before."""
        keras.utils.set_random_seed(1)
        model = sweep_subjects.model_of(self.subject)
        model.set_weights(self.weights)
        before, outputs = nature(model), self.outputs(model)
        if way.library == "tfmp":
            convert(model, way.precision)
            tfmp.revert(model)
        if nature(model) != before:
            raise ValueError("other layers than before")
        for one, other in zip(self.weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        same(outputs, self.outputs(model))
        return "same bits"

    def lora(self, way: Way) -> str | None:
        """Trains the adapters of a backbone, or of all dense layers."""
        model = self.model(way)
        backbone = getattr(model, "backbone", model)
        if not hasattr(backbone, "enable_lora"):
            return None
        backbone.enable_lora(4)
        return self.fit(model, 1, run_eagerly=True)

    def exports(self, way: Way) -> str | None:
        """Writes a SavedModel, which TensorFlow alone loads and runs."""
        path = f"{self.folder.name}/exported"
        if way.library == "Keras":
            self.model(way).export(path, format="tf_saved_model", verbose=False)
            return ""
        report = tfmp.export(self.model(way), path)
        return f"{report.sqnr:.0f} dB"

    def generates(self, way: Way) -> str:
        """Returns the share of tokens that float32 generates too."""
        found = [self.generated(self.model(each)) for each in (PLAIN, way)]
        return f"{np.mean(found[0] == found[1]):.0%} of the tokens"

    def generated(self, model: keras.Model) -> np.ndarray:
        """Returns the tokens of a greedy search."""
        model.compile(sampler="greedy", jit_compile=False)
        found = model.generate(self.x, stop_token_ids=None)
        names = ("token_ids", "decoder_token_ids")
        return np.asarray(next(found[n] for n in names if n in found))

    def outputs(self, model: keras.Model) -> list[np.ndarray]:
        """Returns all outputs in inference."""
        found = keras.tree.flatten(model(self.x, training=False))
        return [np.asarray(tf.cast(each, "float32")) for each in found]


def outcome(do: Callable[[Way], Any], way: Way) -> Cell:
    """Returns what a check finds, or its error."""
    try:
        return {"found": do(way)}
    except Exception as error:  # whatever it is, it is a cell
        return {"error": words(error)}


def blame(do: Callable[[Way], Any], way: Way) -> str:
    """Returns in what Keras alone fails too; if in nothing, `"tfmp"`."""
    narrow = "bfloat16" if way.precision == "float8" else way.precision
    for other in (PLAIN, Way("Keras", narrow)):
        if "error" in outcome(do, other):
            return str(other)
    return "tfmp"


def convert(model: keras.Model, precision: str) -> tfmp.ConversionReport:
    """Converts all that can be, at the lengths of the sweep's inputs."""
    policy = f"mixed_{precision}"
    return tfmp.convert(model, policy, filter="all", length=TOKENS)


def run(subject: Subject, path: str, quick: bool = False) -> None:
    """Runs a trial; what a process of its own is started with."""
    Trial(subject, path, quick).run()
