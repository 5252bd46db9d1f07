"""`freeze` and `thaw`: kernels of 8 bits for inference, and back."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import policies
from tfmp._core import scaling
from tfmp._freezing import calibration, fresh_optimizers
from tfmp._freezing.freeze_report import FreezeReport, FrozenRow
from tfmp._keras import class_and_policy, layer_parts
from tfmp._support import checks
from tfmp.conversion import ConversionReport, training_update
from tfmp.conversion.records import flatten, stock_class
from tfmp.layers.attention import Float8Attention
from tfmp.layers.inference import recipe_of, why_wide
from tfmp.policies.frozen_policy import SCALES

THAWED = (
    "thawed: kernels are what 8 bits kept of them, as the float32 masters are "
    "gone; an optimizer begins anew"
)
OWN_AMAX = "of each batch, from its own amax"


def freeze(
    model: keras.Layer, data: Any = None, *, scales: str = "tensor"
) -> FreezeReport:
    """Freezes a model in FP8 for inference, in place: kernels of 8 bits.

        y = q(x * sx) @ kernel / (sx * sw)     kernel = q(w * sw), once

    Each kernel whose product is in FP8 is stored as the bytes that inference
    multiplies, with their scale; those in float32 are gone.  `predict` gives
    what it gave, bit for bit, and quantizes no kernel any more.  Layers that
    are not in FP8 stay as they are.

    The scale of a layer's inputs is stored too, if training knows it, as with
    delayed scaling, or `data` show it.  If neither, as with current scaling,
    it follows from each batch, as before.  The report says which.

    The model saves and loads, also as a SavedModel.  A weights file of the
    model in float32 is quantized as it is loaded, if it knows the amax that
    static scales need.  `tfmp.thaw` gives back a model that trains; a
    compiled one gets a new optimizer, of the same arguments.

    Args:
        model: a built Keras model or layer, with layers in FP8.
        data: for the scales of inputs that training has not seen: inputs of
            the model, or a dataset of batches.
        scales: `"tensor"`, or `"channel"` for a scale of each output channel
            of a kernel, which rounds fewer weights to zero; the outputs then
            are others.

    Returns:
        A `FreezeReport`: what became of each layer, and its bytes.

    Raises:
        TypeError, ValueError: if an argument is not allowed, if the model is
            not built, has no layer in FP8, or is frozen already, or if a
            kernel is not finite.  The model is then as it was.

    >>> import tfmp
    >>> model = keras.Sequential(
    ...     [keras.Input([16]), tfmp.layers.Dense(16, dtype="mixed_float8")]
    ... )
    >>> x = np.ones([2, 16], "float32")
    >>> before = model(x, training=False)
    >>> report = freeze(model)
    >>> report.before, report.after, str(model.layers[0].weights[1].dtype)
    (1088, 324, 'uint8')
    >>> bool(tf.reduce_all(model(x, training=False) == before))
    True
    """
    layers = _checked(model)
    checks.choice("scales", scales, SCALES)
    chosen: dict[str, Any] = {
        path: layer for path, layer in layers.items() if _can_freeze(layer)
    }
    if not chosen:
        raise ValueError(
            "`model` must have layers in FP8 that can be frozen, without LoRA "
            f"and unit scaling. Received: {model!r}"
        )
    _check_kernels(chosen)
    unseen = {p: x for p, x in chosen.items() if _amax_of_inputs(x) is None}
    found: dict[str, float] = {}
    if data is not None:
        found = calibration.amax_of_inputs(model, data, unseen)
    before = {path: _bytes(layer) for path, layer in layers.items()}
    for path, layer in chosen.items():
        _freeze(layer, scales, path not in unseen or path in found)
        if path in found:
            amax, recipe = tf.constant(found[path]), layer.recipe
            scale = scaling.scale_of_role(recipe, "inputs", amax)
            layer.inputs_scale.assign(scale)
    _freeze_attention(layers, chosen)
    fresh_optimizers.replace(layers.values())
    training_update.follow(model)
    return FreezeReport(
        tuple(
            _row(path, layer, before[path], unseen, found)
            for path, layer in layers.items()
            if before[path]
        )
    )


def thaw(model: keras.Layer) -> ConversionReport:
    """Gives back a model that trains, in place, of one that is frozen.

        kernel = bytes / scale     in float32

    What 8 bits did not keep of the kernels is gone; the FP8 state is what it
    was.  A compiled model gets a new optimizer, of the same arguments.

    Args:
        model: what `tfmp.freeze` was given, or a file of it.

    Returns:
        A `ConversionReport`.

    Raises:
        TypeError: if `model` is no model or layer.
        ValueError: if no layer of it is frozen.

    >>> import tfmp
    >>> model = keras.Sequential(
    ...     [keras.Input([16]), tfmp.layers.Dense(16, dtype="mixed_float8")]
    ... )
    >>> report = tfmp.freeze(model)
    >>> thaw(model).rows[0].float8
    ('output', 'input_grad', 'kernel_grad')
    """
    checks.instance("model", model, keras.Layer, "a Keras model or layer")
    layers = flatten(model)
    frozen = {path: policies.of_layer(layer) for path, layer in layers.items()}
    frozen = {
        path: policy
        for path, policy in frozen.items()
        if isinstance(policy, policies.FrozenPolicy)
    }
    if not frozen:
        raise ValueError(
            "`model` must be frozen: `tfmp.freeze` makes it so. "
            f"Received: {model!r}"
        )
    for path, policy in frozen.items():
        class_and_policy.become(layers[path], policy.thawed)
    fresh_optimizers.replace(layers.values())
    training_update.follow(model)
    return ConversionReport(model, notes=(THAWED,))


def _checked(model: Any) -> dict[str, keras.Layer]:
    """Returns the layers of a model that can be frozen, by path."""
    checks.instance("model", model, keras.Layer, "a Keras model or layer")
    layers = flatten(model)
    if not model.built:
        raise ValueError(
            "`model` must be built: call it once, or give it an input shape. "
            f"Received: {model!r}"
        )
    for path, layer in layers.items():
        if isinstance(policies.of_layer(layer), policies.FrozenPolicy):
            raise ValueError(
                "`model` must not be frozen yet; `tfmp.thaw` gives one that "
                f"trains. Received: {path!r}, which is frozen"
            )
    if not any(map(recipe_of, layers.values())):
        raise ValueError(
            "`model` must have layers in FP8, as `tfmp.convert` gives them. "
            f"Received: {model!r}"
        )
    return layers


def _can_freeze(layer: Any) -> bool:
    if not recipe_of(layer) or layer.lora_enabled:
        return False
    found: bool = layer.is_plain_product
    return found


def _check_kernels(layers: dict[str, Any]) -> None:
    for path, layer in layers.items():
        amax = float(scaling.amax(layer.uncast_kernel()))
        if not math.isfinite(amax):
            raise ValueError(
                "`model` must have finite kernels. "
                f"Received: {path!r}, whose kernel has an infinity or a NaN"
            )


def _amax_of_inputs(layer: Any) -> tf.Tensor | None:
    """Returns what inference assumes of the inputs, None if nothing."""
    recipe: Any = recipe_of(layer)
    if recipe.static_scale("inputs") is not None:
        return tf.constant(1.0)
    if not recipe.is_delayed("inputs"):
        return None
    amax = layer.amax[0]
    return amax if scaling.is_observed(amax) else None


def _freeze(layer: keras.Layer, scales: str, static: bool) -> None:
    recipe = policies.recipe_of(policies.of_layer(layer))
    policy = policies.FrozenPolicy(recipe, scales, static)
    class_and_policy.become(layer, policy)


def _freeze_attention(
    layers: dict[str, keras.Layer], chosen: dict[str, Any]
) -> None:
    """Has attention make its projections frozen, when a file is loaded."""
    for layer in layers.values():
        below = [x for x in layer_parts.children(layer) if _is_in(x, chosen)]
        if isinstance(layer, Float8Attention) and below:
            policy = policies.of_layer(below[0])
            own = policies.recipe_of(policies.of_layer(layer))
            class_and_policy.assign(layer, policy.with_recipe(own))


def _is_in(layer: keras.Layer, chosen: dict[str, Any]) -> bool:
    return any(layer is each for each in chosen.values())


def _bytes(layer: keras.Layer) -> int:
    return sum(
        int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size
        for v in layer_parts.own_weights(layer)
    )


def _row(
    path: str,
    layer: Any,
    before: int,
    unseen: dict[str, Any],
    found: dict[str, float],
) -> FrozenRow:
    kind = stock_class(layer).__name__
    if not getattr(layer, "holds_bytes", False):
        why = f"stays: {why_wide(layer) or 'no product in FP8'}"
        if getattr(layer, "lora_enabled", False):
            why = "stays: with LoRA"
        if not getattr(layer, "is_plain_product", True):
            why = "stays: its product has factors of its own"
        return FrozenRow(path, kind, before, _bytes(layer), why)
    scale = np.asarray(layer.kernel_scale)
    kernel = f"{layer.recipe.kernel} at "
    kernel += "a scale a channel" if scale.ndim else _power(scale)
    inputs = OWN_AMAX
    if layer.inputs_scale is not None:
        where = "data" if path in found else "training"
        inputs = f"{_power(layer.inputs_scale)}, from {where}"
    return FrozenRow(path, kind, before, _bytes(layer), kernel, inputs)


def _power(scale: Any) -> str:
    return f"2**{int(math.log2(float(scale)))}"
