"""Residual connections that keep a standard deviation of 1."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfmp._support import checks
from tfmp.unit_scaling.scale import scale_backward, scale_forward

BOUNDS = 2.0**-16, 2.0**16  # of multipliers


def residual_tau(
    index: int, depth: int, alpha: float = 1.0, attention_ratio: float = 1.0
) -> float:
    """Returns the weight of a residual branch of a Transformer.

        ffn  = alpha * sqrt(2 / (1 + attention_ratio**2))
        each = attention_ratio * ffn of attention, ffn of all other
        tau  = each / sqrt(depth / 2 + sum(each**2 of the branches before))

    With both multipliers at 1, the embedding, all attention and all other
    branches contribute the same to the result.

    Args:
        index: of the branch, from 0; attention first, then in turns.
        depth: how many branches there are: two a block.
        alpha: u-muP's multiplier of residual branches by the embedding, from
            2**-16 to 2**16.
        attention_ratio: of attention by all other branches, from 2**-16 to
            2**16.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2407.17465, appendix G.

    >>> residual_tau(0, 8)
    0.5
    """
    checks.integer("depth", depth, 1)
    checks.integer("index", index, 0, depth - 1)
    alpha = checks.number("alpha", alpha, *BOUNDS)
    ratio = checks.number("attention_ratio", attention_ratio, *BOUNDS)
    ffn = alpha * math.sqrt(2 / (1 + ratio**2))
    each = ratio * ffn, ffn
    before = sum(each[at % 2] ** 2 for at in range(index))
    return each[index % 2] / math.sqrt(depth / 2 + before)


class _Weighted(keras.layers.Layer):
    """A layer that weighs a residual branch against what goes past it."""

    def __init__(self, tau: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tau = checks.number("tau", tau, *BOUNDS)

    def _weights(self) -> tuple[float, float]:
        whole = math.sqrt(1 + self.tau**2)
        return self.tau / whole, 1 / whole

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "tau": self.tau}


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class ResidualSplit(_Weighted):
    """Begins a residual branch: gives its input, and what goes past it.

        branch, skip = x, x
        dx = (tau * dbranch + dskip) / sqrt(1 + tau**2)

    The weights of `ResidualAdd` are here in the backward pass, so gradients in
    the branch begin with a standard deviation of 1, too.

    Args:
        tau: the weight of the branch, from 2**-16 to 2**16: as of the
            `ResidualAdd` that ends it.
        **kwargs: those of `keras.layers.Layer`.

    Raises:
        TypeError, ValueError: if `tau` is not allowed.

    Source: arXiv 2407.17465, section 4.1 and appendix B.

    >>> [x.numpy().tolist() for x in ResidualSplit()(keras.ops.ones([1]))]
    [[1.0], [1.0]]
    """

    def call(self, inputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns branch and skip."""
        branch, skip = self._weights()
        return scale_backward(inputs, branch), scale_backward(inputs, skip)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class ResidualAdd(_Weighted):
    """Ends a residual branch: adds it to what went past it.

        y = (tau * branch + skip) / sqrt(1 + tau**2)

    Called on `[branch, skip]`, as `keras.layers.Add` is.

    Args:
        tau: the weight of the branch, from 2**-16 to 2**16; those of a
            Transformer are `residual_tau`.
        **kwargs: those of `keras.layers.Layer`.

    Raises:
        TypeError, ValueError: if `tau` is not allowed.

    Source: arXiv 2407.17465, section 4.1 and appendix B.

    >>> branch, skip = ResidualSplit(0.75)(keras.ops.ones([1]))
    >>> ResidualAdd(0.75)([branch, skip]).shape
    TensorShape([1])
    """

    def call(self, inputs: Any) -> tf.Tensor:
        """Adds."""
        branch, skip = inputs
        own, past = self._weights()
        return scale_forward(branch, own) + scale_forward(skip, past)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of both."""
        return input_shape[0]
