"""Attention with unit scaling."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import keras
import tensorflow as tf

from tfmp import layers
from tfmp._keras import layer_builds
from tfmp._support import checks
from tfmp.unit_scaling import rates
from tfmp.unit_scaling.dense import EinsumDense

STOCK = keras.layers.MultiHeadAttention
ARGUMENTS = inspect.signature(STOCK.call)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class MultiHeadAttention(layers.MultiHeadAttention):
    """`MultiHeadAttention` that begins with a standard deviation of about 1.

        q, k, v = tfmp.unit_scaling.EinsumDense of each
        y = softmax(alpha * q @ k.T / key_dim) @ v * factor
        output = tfmp.unit_scaling.EinsumDense of y

    The factor is that of values without correlation, which attention averages
    at the start: `sqrt(keys)`, and `sqrt(keys / log(keys))` with
    `use_causal_mask=True`.  It depends on the number of keys, and not on other
    masks: train and predict with the same length.  Tokens that attended before
    are correlated, so in a deep model results become larger than 1, up to the
    factor; normalize them before they are added.

    Args:
        num_heads: how many heads.
        key_dim: size of a head.
        alpha: u-muP's multiplier of the softmax, from 2**-16 to 2**16.
        **kwargs: those of `keras.layers.MultiHeadAttention`, but for
            `flash_attention`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2407.17465, appendix B (the factor); arXiv 2203.03466,
    definition 4.1 (`1 / key_dim` in place of its root).

    >>> layer, x = MultiHeadAttention(2, 4), keras.ops.ones([1, 3, 8])
    >>> layer(x, x, use_causal_mask=True).shape
    TensorShape([1, 3, 8])
    """

    projection = EinsumDense
    _causal = False

    def __init__(
        self, num_heads: int, key_dim: int, *, alpha: float = 1.0, **kwargs: Any
    ) -> None:
        if kwargs.get("flash_attention"):
            raise ValueError(
                "`flash_attention` must be None or False: a fused kernel has "
                "no factor. Received: True"
            )
        kwargs.setdefault("kernel_initializer", rates.unit_normal())
        super().__init__(num_heads, key_dim, **kwargs)
        self.alpha = checks.number("alpha", alpha, 2.0**-16, 2.0**16)

    @layer_builds.of_present_class
    def build(
        self, query_shape: Any, value_shape: Any, key_shape: Any = None
    ) -> None:
        """Creates the projections, and notes their learning rates."""
        super().build(query_shape, value_shape, key_shape)
        for child in self._flatten_layers(include_self=False):
            if isinstance(child, EinsumDense):
                child.note_rates()

    @functools.wraps(STOCK.call)
    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Attends, and remembers whether each token sees those before only."""
        given = ARGUMENTS.bind(self, *args, **kwargs).arguments
        self._causal = bool(given.get("use_causal_mask"))
        return super().call(*args, **kwargs)

    @property
    def _attends_as_keras(self) -> bool:
        """Keras' attention has no factors."""
        return False

    def _attention_factors(
        self, logits: tf.Tensor, key_dim: int, axes: int
    ) -> tuple[float, Any]:
        """Returns both; weights have it as FP8 keeps them better so."""
        uniform = 1 / (1 + self.alpha**2 / (4 * key_dim))
        averaged = averaged_values(logits, axes, self._causal)
        return self.alpha / key_dim, averaged ** (uniform / 2)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "alpha": self.alpha}


def averaged_values(logits: tf.Tensor, axes: int, causal: bool) -> Any:
    """Returns how many values uniform attention averages, 1 or more.

    Args:
        logits: whose last axes are the keys.
        axes: how many.
        causal: whether a query sees the keys before it alone.
    """
    known = logits.shape[-axes:]
    if None not in known:
        keys = math.prod(known)
        return max(1.0, keys / max(1.0, math.log(keys)) if causal else keys)
    keys = tf.cast(tf.reduce_prod(tf.shape(logits)[-axes:]), tf.float32)
    return keys / tf.maximum(1.0, tf.math.log(keys)) if causal else keys
