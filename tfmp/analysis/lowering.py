"""Layers in another precision for a while, and then exactly as before.

Of a layer no more is changed than its policy and, for FP8, its class: no
variable, no state, nothing of the optimizer, no function that is compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfmp import policies
from tfmp._core import custom_gradients
from tfmp._keras import call_context, class_and_policy, layer_kinds
from tfmp.analysis.candidates import rounded
from tfmp.analysis.variants import WHOLE, Variant
from tfmp.conversion.records import flatten
from tfmp.layers import classes


@contextlib.contextmanager
def under(
    layers: Iterable[keras.Layer], policy: keras.DTypePolicy
) -> Iterator[None]:
    """Gives layers a policy within the block, also if that fails."""
    low = policies.recipe_of(policy) is not None
    layers = list(layers)
    with class_and_policy.kept(layers):
        for layer in layers:
            ours = classes.ours_for(type(layer))
            cls = type(layer)
            if low and ours and not classes.overridden(cls):
                cls = class_and_policy.extended(layer, ours)
            class_and_policy.assign(layer, policy, cls)
        yield


def floating(model: keras.Layer) -> list[keras.Layer]:
    """Returns the layers whose precision is that of the numbers in them."""
    return [
        layer
        for layer in flatten(model).values()
        if getattr(layer, "quantization_mode", None) is None
        and not layer_kinds.is_preprocessing(layer)
        and keras.backend.is_float_dtype(layer.compute_dtype)
    ]


def call_lowered(
    variant: Variant,
    args: Any,
    kwargs: Any,
    seen: Callable[[tf.Tensor, tf.Tensor], None],
) -> Any:
    """Calls a layer with a role, or all of it, in a candidate's precision.

    Gradients are those of the layer as it runs then; through a role's tensor
    they go as if it were not rounded.

    Args:
        variant: what to lower; around it everything is as it was.
        args: of the call.
        kwargs: of the call.
        seen: is told each tensor of the role, before and after.
    """
    subject, candidate, role = variant.subject, variant.candidate, variant.role
    layer = subject.layer
    with under(subject.members, candidate.measured_policy):
        if role == WHOLE:
            return layer(*args, **kwargs)
        recipe = candidate.recipe and layer.float8_operators().get("")

    def low(x: tf.Tensor) -> tf.Tensor:
        result = rounded(x, role, recipe, candidate.dtype)
        seen(x, result)
        return result

    if role == "inputs":
        return layer(_straight_through(args[0], low), *args[1:], **kwargs)
    if role == "kernel":
        with call_context.uncast():
            kernel = tf.convert_to_tensor(subject.kernel)
        mapping = [(subject.kernel, _straight_through(kernel, low))]
        with keras.StatelessScope(mapping):
            return layer(*args, **kwargs)
    with before_activation(layer, lambda x: with_gradient(x, low)):
        return layer(*args, **kwargs)


def _straight_through(x: Any, low: Callable[[Any], Any]) -> tf.Tensor:
    # Not x + (low(x) - x), which rounds again.
    @custom_gradients.custom_gradient
    def round_to(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        return low(x), lambda upstream: upstream

    return round_to(x)


def with_gradient(x: Any, low: Callable[[Any], Any]) -> tf.Tensor:
    """Returns a tensor as it is, whose gradient goes through a function."""

    @custom_gradients.custom_gradient
    def keep(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        return tf.identity(x), low

    return keep(x)


@contextlib.contextmanager
def before_activation(
    layer: keras.Layer, before: Callable[[Any], Any]
) -> Iterator[None]:
    """Puts a function before a layer's activation."""
    known = layer.activation

    def both(x: Any) -> Any:
        return before(x) if known is None else known(before(x))

    vars(layer)["activation"] = both
    try:
        yield
    finally:
        vars(layer)["activation"] = known
