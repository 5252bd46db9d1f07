"""Export to safetensors: FP8 weights for servers, without a program.

There is no runtime to run: the file's values are read back into the model,
whose outputs in float32 are compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import recipes
from tfmp._core import equations, quantization, scaling
from tfmp._exporting.export_report import ExportedLayer
from tfmp._exporting.job import Job
from tfmp._exporting.plain_model import (
    LEAST_DECIBELS,
    expected_sqnr,
    plain,
)
from tfmp._keras import layer_parts
from tfmp.checkpoints import compressed_tensors
from tfmp.checkpoints.compressed_tensors import Linear
from tfmp.conversion.records import flatten, stock_class
from tfmp.formats import E4M3
from tfmp.layers.inference import kernel_scale, recipe_of

RUNTIME = "Keras, with the file's weights in float32"
DYNAMIC = "a server finds the scales of inputs itself: {}"
STATIC = "scales of inputs are those that training has seen"
NO_STATE = "no training has seen those of {}"
ASKED = "as asked for"
SCALES = {"float8": "one scale", "float8_dynamic": "a scale for each output"}


@dataclasses.dataclass(frozen=True)
class ServerJob(Job):
    """An export to a folder that a server of language models reads."""

    @staticmethod
    def expected_sqnr(model: keras.Model) -> float:
        """The same, with the kernels rounded that are not in FP8 otherwise."""
        chosen = _chosen(model)
        wide = [x for x in chosen.values() if recipe_of(x) is None]
        noise = 10 ** (-expected_sqnr(model) / 10)
        noise += len(wide) * (E4M3.epsilon / 2) ** 2
        return max(LEAST_DECIBELS, -10 * math.log10(noise))

    def run(self, path: str, min_sqnr: float) -> dict[str, Any]:
        """Writes the folder, reads it back and compares.

        Raises:
            ValueError: if no layer is a linear one, or the outputs with what
                was read are too far from the model's.
        """
        expected = self.outputs()
        chosen, note = _chosen(self.model), self._inputs_note()
        linears = {
            name: self._linear(layer, name in chosen, note == STATIC)
            for name, layer in _linear_layers(self.model).items()
        }
        others = {}
        variables = compressed_tensors.variables_by_name(self.model)
        for name, variable in variables.items():
            layer, _, own = name.rpartition(".")
            value = keras.ops.convert_to_numpy(variable.value)
            if layer not in linears:
                others[name] = value
            elif own != "kernel":
                others[name] = value.reshape(-1)
        folder = pathlib.Path(path)
        compressed_tensors.write(folder, linears, others)
        with self.as_read(folder):
            found = keras.tree.flatten(self.outputs())
        found = [np.asarray(tf.cast(x, tf.float32)) for x in found]
        return {
            "runtime": RUNTIME,
            **self.compare(expected, None, found, min_sqnr),
            "notes": (note,),
        }

    def describe(self) -> tuple[ExportedLayer, ...]:
        """Returns a row for each layer with weights."""
        chosen = {id(layer) for layer in _chosen(self.model).values()}
        return tuple(
            ExportedLayer(
                path,
                stock_class(layer).__name__,
                "float8" if recipe_of(layer) else layer.compute_dtype,
                f"weight in E4M3, {SCALES[self.kernels]}"
                if id(layer) in chosen
                else str(layer_parts.own_weights(layer)[0].dtype),
            )
            for path, layer in flatten(self.model).items()
            if layer_parts.own_weights(layer)
        )

    def _linear(self, layer: keras.Layer, low: bool, fixed: bool) -> Linear:
        """Returns a layer's kernel as the file has it."""
        stored = layer_parts.stored_kernel(layer)
        kernel = tf.cast(tf.convert_to_tensor(stored.value), tf.float32)
        rows = int(np.prod(kernel.shape[: _summed(layer)]))
        weight = tf.transpose(tf.reshape(kernel, [rows, -1]))
        if not low:
            return Linear(weight.numpy())
        scale, recipe = _scale(layer, weight, self.kernels), recipe_of(layer)
        inputs = None
        if fixed and recipe is not None:
            inputs = _inverse(_input_scale(recipe, layer.amax))
        weight = quantization.quantize(weight, scale, E4M3)
        return Linear(weight.numpy(), _inverse(scale), inputs)

    def _inputs_note(self) -> str:
        chosen = _chosen(self.model)
        if self.kernels == "float8_dynamic":
            return DYNAMIC.format(ASKED)
        unseen = [n for n, layer in chosen.items() if not _has_seen(layer)]
        return DYNAMIC.format(NO_STATE.format(unseen[0])) if unseen else STATIC

    @contextlib.contextmanager
    def as_read(self, folder: pathlib.Path) -> Iterator[None]:
        """Has the model compute in float32 with what a folder holds."""
        variables = compressed_tensors.variables_by_name(self.model)
        before = [tf.identity(v.value) for v in variables.values()]
        try:
            compressed_tensors.load_safetensors(self.model, folder)
            with plain(self.model, "float"):
                yield
        finally:
            for variable, value in zip(variables.values(), before, strict=True):
                variable.assign(value)


def _linear_layers(model: keras.Layer) -> dict[str, keras.Layer]:
    """Returns the layers that are one product with a kernel, by name.

    Raises:
        ValueError: if there is none.
    """
    every = compressed_tensors.layers_by_name(model)
    if any(getattr(layer, "holds_bytes", False) for layer in every.values()):
        raise ValueError(
            "`model` must not be frozen for format='safetensors': export it "
            "before `tfmp.freeze`, or after `tfmp.thaw`; the bytes are the "
            f"same. Received: {model.name!r}, which is frozen"
        )
    for name, layer in every.items():
        if not getattr(layer, "is_plain_product", True):
            raise ValueError(
                "`model` must not have layers of tfmp.unit_scaling for "
                "format='safetensors': a server multiplies without their "
                f"factors. Received: {name!r}"
            )
    found = {name: x for name, x in every.items() if name and _is_linear(x)}
    if not found:
        raise ValueError(
            "`model` must hold a Dense layer, or an EinsumDense that sums over "
            "the first axes of its kernel, for format='safetensors'. "
            f"Received: {model.name!r}, which holds none"
        )
    return found


def _chosen(model: keras.Layer) -> dict[str, keras.Layer]:
    """Returns the layers to quantize: those in FP8; without any, all."""
    linear = _linear_layers(model)
    low = {n: x for n, x in linear.items() if recipe_of(x) is not None}
    return low or linear


def _is_linear(layer: keras.Layer) -> bool:
    if getattr(layer, "lora_enabled", False) or not layer.built:
        return False
    if isinstance(layer, keras.layers.Dense):
        return True
    return (
        isinstance(layer, keras.layers.EinsumDense)
        and _summed(layer) is not None
    )


def _summed(layer: keras.Layer) -> int | None:
    """Returns how many of a kernel's first axes are summed over, if these."""
    if isinstance(layer, keras.layers.Dense):
        return 1
    inputs, rest = layer.equation.split(",")
    kernel, outputs = rest.split("->")
    summed = equations.Contraction(
        *(x.replace("...", "") for x in (inputs, kernel, outputs))
    ).contracting
    count = len(summed)
    free = set(kernel[count:])
    plain_axes = free <= set(outputs) and not free & set(inputs)
    return count if set(kernel[:count]) == set(summed) and plain_axes else None


def _has_seen(layer: keras.Layer) -> bool:
    recipe = recipe_of(layer)
    if recipe is None or not recipe.is_delayed("inputs"):
        return False
    known = layer.amax
    return known is not None and bool(scaling.is_observed(known)[0])


def _input_scale(recipe: recipes.Float8Recipe, amax: tf.Tensor) -> tf.Tensor:
    seen = scaling.assumed_amax(amax, "inputs", E4M3)
    return scaling.compute_scale(seen, E4M3, recipe.margin)


def _scale(layer: keras.Layer, weight: tf.Tensor, kernels: str) -> tf.Tensor:
    """Returns the factor of a weight: `[1]`, or of each row `[out, 1]`."""
    recipe = recipe_of(layer)
    if kernels == "float8_dynamic":
        largest = tf.reduce_max(tf.abs(weight), axis=1, keepdims=True)
        return scaling.compute_scale(largest, E4M3, power_of_two=False)
    if recipe is not None and recipe.format("kernel") == E4M3:
        return tf.reshape(kernel_scale(layer, recipe), [1])
    largest = tf.reshape(scaling.amax(weight), [1])
    return scaling.compute_scale(largest, E4M3, power_of_two=False)


def _inverse(scale: tf.Tensor) -> np.ndarray:
    """Returns what a server multiplies with, `[1]` or `[out, 1]`."""
    found: np.ndarray = (1.0 / scale).numpy()
    return found if found.ndim else found.reshape([1])
