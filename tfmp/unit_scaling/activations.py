"""Activations that keep a standard deviation of 1, and their gradients."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp.unit_scaling import factors
from tfmp.unit_scaling.gradient_scaling import scale_backward, scale_forward


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
def gelu(x: Any, constraint: str | None = None) -> tf.Tensor:
    """GELU that keeps a standard deviation of 1.

        y = 1.77 * x * Phi(x)

    Args:
        x: floating-point tensor of any shape.
        constraint: None gives the gradient a factor of its own, 1.52;
            `"to_output_scale"` that of the result.

    Source: arXiv 2407.17465, appendix B.

    >>> float(gelu(0.0))
    0.0
    """
    return _elementwise(x, _exact_gelu, factors.gelu(), constraint)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
def silu(x: Any, constraint: str | None = None) -> tf.Tensor:
    """SiLU that keeps a standard deviation of 1.

        y = 1.77 * x * sigmoid(x)

    Args:
        x: floating-point tensor of any shape.
        constraint: None gives the gradient a factor of its own, 1.68;
            `"to_output_scale"` that of the result.

    Source: arXiv 2407.17465, appendix B.

    >>> float(silu(0.0))
    0.0
    """
    return _elementwise(x, tf.nn.silu, factors.silu(), constraint)


def silu_glu(x: Any, gate: Any) -> tf.Tensor:
    """A gated unit that keeps a standard deviation of 1.

        y = 1.68 * x * silu(gate)

    Args:
        x: floating-point tensor.
        gate: the same, of the same shape.

    Source: arXiv 2407.17465, appendix B.

    >>> float(silu_glu(1.0, 0.0))
    0.0
    """
    factor = factors.silu_glu()
    x, gate = (scale_backward(each, factor) for each in (x, gate))
    return scale_forward(x * tf.nn.silu(gate), factor)


def _exact_gelu(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(x, approximate=False)


def _elementwise(
    x: Any,
    function: Any,
    both: tuple[float, float],
    constraint: str | None,
) -> tf.Tensor:
    output, gradient = factors.constrained(constraint, *both)
    return scale_forward(function(scale_backward(x, gradient)), output)
