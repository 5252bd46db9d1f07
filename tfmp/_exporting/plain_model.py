"""A model whose layers compute in float32 for a while, and then as before.

Without a recipe a layer of tfmp is the Keras layer, so that changing policies
is enough: no class, no state and no compiled function is touched.  Kernels
that are to be rounded are assigned, and assigned back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfmp import formats, policies, recipes
from tfmp._core import quantization
from tfmp._exporting.export_report import ExportedLayer
from tfmp._keras import class_and_policy, graph_nodes, layer_parts
from tfmp.conversion.records import flatten, stock_class
from tfmp.layers.attention import Float8Attention
from tfmp.layers.inference import kernel_scale, recipe_of, why_wide
from tfmp.layers.layer_recipes import recipe_of_products

# Half the distance of neighbours from 1 on: the largest relative error of
# rounding.  A GPU may multiply float32 as TF32, of 10 bits.
TF32_ROUNDING = 2.0**-11
LEAST_DECIBELS = 10.0


@contextlib.contextmanager
def plain(model: keras.Layer, kernels: str) -> Iterator[None]:
    """Has every layer of less than 32 bits compute in float32, without FP8.

    Args:
        model: any layer; after the block it is as it was, bit for bit.
        kernels: `"quantized"` to round each kernel to the values that its
            layer multiplies in inference, `"float"` to keep them.
    """
    layers = [x for x in flatten(model).values() if is_narrow(x)]
    rounded: list[tuple[Any, tf.Tensor]] = []
    if kernels == "quantized":
        rounded = [pair for x in layers for pair in _rounded_weights(x)]
    kept = [(weight, tf.identity(weight)) for weight, _ in rounded]
    try:
        for weight, value in rounded:
            weight.assign(value)
        with class_and_policy.kept(layers):
            for layer in layers:
                class_and_policy.assign(layer, policies.Policy("float32"))
            yield
    finally:
        for weight, value in kept:
            weight.assign(value)


def is_narrow(layer: keras.Layer) -> bool:
    """Whether a layer computes in 16 bits or less; Keras' quantized stay."""
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    return layer.compute_dtype in ("bfloat16", "float16")


def emulated_by(layer: keras.Layer) -> recipes.Recipe | None:
    """Returns the recipe of a layer whose forward products are emulated."""
    recipe = recipe_of_products(layer)
    if recipe is None or not recipe.emulates or not recipe.lowers("output"):
        return None
    return recipe


def _rounded_weights(layer: keras.Layer) -> list[tuple[Any, tf.Tensor]]:
    """Returns what to assign so that the kernel has the values of FP8.

    LoRA's product is rounded with the kernel, and then must not be added.
    """
    recipe = recipe_of(layer)
    if recipe is None or layer.holds_bytes:  # whose kernel is rounded already
        return []
    scale = kernel_scale(layer, recipe)
    low = quantization.quantize(
        layer.uncast_kernel(), scale, recipe.format("kernel")
    )
    weight = layer_parts.stored_kernel(layer)
    value = quantization.dequantize(low, scale, weight.dtype)
    if not layer.lora_enabled:
        return [(weight, value)]
    lora = layer.lora_kernel_b
    return [(weight, value), (lora, tf.zeros(lora.shape, lora.dtype))]


def describe(model: keras.Layer, kernels: str) -> tuple[ExportedLayer, ...]:
    """Returns a row for each layer with weights or FP8 products."""
    return tuple(
        ExportedLayer(
            path,
            stock_class(layer).__name__,
            "float8" if _roundings(layer)[1] else layer.compute_dtype,
            _exported(layer, kernels),
        )
        for path, layer in flatten(model).items()
        if layer_parts.own_weights(layer) or _roundings(layer)[1]
    )


def _exported(layer: keras.Layer, kernels: str) -> str:
    recipe, emulation = recipe_of(layer), emulated_by(layer)
    if getattr(layer, "holds_bytes", False) and kernels == "float8":
        return "FP8 product, kernel stored in 8 bits"
    if kernels == "float8":
        what = f"as it is, {emulation}" if emulation else "as it is"
        return "FP8 product" if _roundings(layer)[1] else what
    dtype = "float32" if is_narrow(layer) else layer.compute_dtype
    if emulation:
        return f"{dtype}; without what was {emulation}"
    if recipe is None:
        why = is_narrow(layer) and why_wide(layer)
        return f"{dtype}; its output was not in FP8: {why}" if why else dtype
    if kernels == "float" and not layer.holds_bytes:
        return f"{dtype}, kernel as it is"
    scale = kernel_scale(layer, recipe)
    if scale.shape != ():
        return f"{dtype}, kernel rounded to {recipe.kernel}, by channel"
    power = int(math.log2(scale))
    text = f"{dtype}, kernel rounded to {recipe.kernel} at scale 2**{power}"
    return f"{text}, LoRA included" if layer.lora_enabled else text


def _roundings(layer: keras.Layer) -> tuple[list[float], bool]:
    """Returns the relative roundings of a call's operands; whether in FP8."""
    if emulation := emulated_by(layer):
        both = map(emulation.format, ("inputs", "kernel"))
        return [getattr(f, "element", f).epsilon / 2 for f in both], False
    recipe: recipes.Recipe | None = recipe_of(layer)
    products = 1
    if recipe is None and isinstance(layer, Float8Attention):
        recipe, products = recipe_of_products(layer), 2
    if recipe is not None and not recipe.emulates:
        roles = ("inputs", "kernel") * products
        return [recipe.format(role).epsilon / 2 for role in roles], True
    if not layer_parts.own_weights(layer):
        return [], False
    if is_narrow(layer):
        return [formats.get_plain(layer.compute_dtype).epsilon / 2] * 2, False
    return [TF32_ROUNDING] * 2, False


def expected_sqnr(model: keras.Layer, exact: bool = False) -> float:
    """Returns what rounding leaves of the outputs at the least, in dB.

        -10 * log10(sum of u**2 over the operands of all products)

    where `u` is the largest relative rounding error of the operand's format:
    noise of that power in each, one after the other.  Not below 10 dB.

    Args:
        model: whose layers round.
        exact: whether all of them are to count as float32.
    """
    noise = 0.0
    for layer in flatten(model).values():
        rounding, _ = _roundings(layer)
        if exact:
            rounding = [TF32_ROUNDING] * len(rounding)
        noise += graph_nodes.calls(layer) * sum(u * u for u in rounding)
    worst = -10 * math.log10(noise or TF32_ROUNDING**2)
    return max(LEAST_DECIBELS, worst)
