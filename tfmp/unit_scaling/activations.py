"""Activations whose results begin with a standard deviation of 1.

    y = factor * f(x)

Gradients have the same factor, so they are exact: in a residual branch a factor
of their own would change what the branch contributes to the gradient.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfmp._support import checks
from tfmp.unit_scaling.scale import floating

RELU = math.sqrt(2 / (1 - 1 / math.pi))


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
def relu(x: Any) -> tf.Tensor:
    """ReLU whose result has a standard deviation of 1.

        y = 1.713 * max(x, 0)

    Args:
        x: floating-point tensor of any shape.

    Source: arXiv 2303.11257, appendix, table of factors.

    >>> round(float(relu(1.0)), 3)
    1.713
    """
    return RELU * tf.nn.relu(floating(x))


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
def gelu(x: Any, alpha: float = 1.0) -> tf.Tensor:
    """GELU whose result has a standard deviation of 1.

        y = factor * gelu(alpha * x) / alpha      factor = 1.767 for alpha = 1

    Args:
        x: floating-point tensor of any shape.
        alpha: u-muP's multiplier of the activation, from 2**-16 to 2**16: small
            values make it linear, large ones a ReLU.

    Source: arXiv 2407.17465, appendix B.

    >>> round(float(gelu(10.0)), 2)
    17.67
    """
    alpha = _alpha(alpha)
    x = floating(x)
    return _factor(alpha) / alpha * tf.nn.gelu(alpha * x, approximate=False)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
def silu(x: Any, alpha: float = 1.0) -> tf.Tensor:
    """SiLU whose result has a standard deviation of 1.

        y = factor * x * sigmoid(alpha * x)       factor = 1.767 for alpha = 1

    Args:
        x: floating-point tensor of any shape.
        alpha: u-muP's multiplier of the activation, from 2**-16 to 2**16.

    Source: arXiv 2407.17465, appendix B.

    >>> round(float(silu(20.0)), 2)
    35.34
    """
    alpha = _alpha(alpha)
    x = floating(x)
    return _factor(alpha) * x * tf.sigmoid(alpha * x)


UNIT = {
    keras.activations.relu: relu,
    keras.activations.gelu: gelu,
    keras.activations.silu: silu,
}


def get(activation: Any) -> Any:
    """Returns what a layer here takes for an activation.

    Of Keras' relu, gelu and silu that is the one of this module; all others
    stay as they are.
    """
    found = keras.activations.get(activation)
    return UNIT.get(found, found)


def _alpha(given: float) -> float:
    return checks.number("alpha", given, 2.0**-16, 2.0**16)


def _factor(alpha: float) -> float:
    """The paper's fit, between that of a linear function and of ReLU."""
    share = 1 / (1 + 0.25 / alpha**2)
    return math.exp((1 - share) * math.log(2) + share * math.log(RELU))
