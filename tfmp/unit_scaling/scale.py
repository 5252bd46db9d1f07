"""Factors of the forward or the backward pass alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfmp._core import custom_gradients, scaling
from tfmp._support import checks

MOST = 2.0**64


def scale_forward(x: Any, factor: Any) -> tf.Tensor:
    """Multiplies by a factor in the forward pass, and not in the backward.

        y = x * factor
        dx = dy

    Args:
        x: floating-point tensor of any shape.
        factor: a number from 2**-64 to 2**64, or a float32 scalar.

    Returns:
        Tensor of the dtype and shape of `x`.

    Raises:
        TypeError, ValueError: if an argument is not one of these.

    Source: arXiv 2303.11257, section 4.1.

    >>> float(scale_forward(2.0, 3.0))
    6.0
    """
    x = floating(x)
    factor = _factor(factor)

    @custom_gradients.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        """Returns the product, and an identity of the gradient."""
        return _times(x, factor), tf.identity

    return run(x)


def scale_backward(x: Any, factor: Any) -> tf.Tensor:
    """Multiplies by a factor in the backward pass, and not in the forward.

        y = x
        dx = dy * factor

    Args:
        x: floating-point tensor of any shape.
        factor: a number from 2**-64 to 2**64, or a float32 scalar.

    Returns:
        Tensor of the dtype and shape of `x`.

    Raises:
        TypeError, ValueError: if an argument is not one of these.

    Source: arXiv 2303.11257, section 4.1.

    >>> x = tf.constant(2.0)
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = scale_backward(x, 3.0)
    >>> float(y), float(tape.gradient(y, x))
    (2.0, 3.0)
    """
    x = floating(x)
    factor = _factor(factor)

    @custom_gradients.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        """Returns an identity, and what multiplies the gradient."""
        return tf.identity(x), lambda dy: _times(dy, factor)

    return run(x)


def floating(x: Any) -> tf.Tensor:
    """Returns an argument `x` as a tensor.

    Raises:
        TypeError: if it is none, or not floating-point.
    """
    x = scaling.as_tensor("x", x)
    if not x.dtype.is_floating:
        raise TypeError(
            f"`x` must be floating-point. Received: dtype {x.dtype.name}"
        )
    return x


def _factor(given: Any) -> Any:
    if not tf.is_tensor(given):
        return checks.number("factor", given, 1 / MOST, MOST)
    if given.dtype != tf.float32 or not given.shape.is_compatible_with([]):
        raise ValueError(
            f"`factor` must be a number, or a float32 scalar. Received: {given}"
        )
    return given


def _times(x: tf.Tensor, factor: Any) -> tf.Tensor:
    """Multiplies in float32 at least: a factor has more digits than 16 bits."""
    wide = tf.cast(x, tf.float32) if x.dtype.size < 4 else x
    return tf.cast(wide * tf.cast(factor, wide.dtype), x.dtype)
