"""Attention with unit scaling."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp import ops, policies
from tfmp._support import checks
from tfmp.layers import softmax
from tfmp.unit_scaling import factors
from tfmp.unit_scaling.dense import Dense
from tfmp.unit_scaling.gradient_scaling import scale_backward

PARTS = ("query", "key", "value")


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class MultiHeadAttention(keras.layers.Layer):
    """Self-attention that keeps a standard deviation of 1.

        q, k, v = Dense(x) each
        y = Dense(softmax(q @ k.T / key_dim) * factor @ v)

    The gradients of `q` and `k` are smaller by `sqrt(key_dim)` than those of
    `v`; they are kept at 1 up to the inputs of their `Dense`, and made as
    small there as they are.  Products of scores and values run by a recipe
    with `attention=True`, else in the compute dtype.

    Args:
        num_heads: how many heads.
        key_dim: the size of a head.
        use_causal_mask: whether each place sees itself and those before it.
        depth: as of `tfmp.unit_scaling.Dense`.
        constraint: the same.
        **kwargs: those of `keras.layers.Layer`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2407.17465, appendix B (the factor); 1 / key_dim in place of
    its root is that of arXiv 2203.03466, definition 4.1.

    >>> MultiHeadAttention(2, 4)(keras.ops.ones([1, 3, 8])).shape
    TensorShape([1, 3, 8])
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        use_causal_mask: bool = False,
        depth: int = 1,
        constraint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = checks.integer("num_heads", num_heads, 1)
        self.key_dim = checks.integer("key_dim", key_dim, 1)
        self.use_causal_mask = checks.boolean(
            "use_causal_mask", use_causal_mask
        )
        self.depth = checks.integer("depth", depth, 1)
        self.constraint = factors.checked(constraint)
        width = num_heads * key_dim
        self.projections = [self._dense(width, name) for name in PARTS]
        self.output_dense: Any = None

    def _dense(self, units: int, name: str) -> Dense:
        return Dense(
            units,
            use_bias=False,
            constraint=self.constraint,
            depth=self.depth,
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape: Any) -> None:
        """Creates the projections' variables."""
        checks.shape("input_shape", input_shape, 3)
        for projection in self.projections:
            projection.build(input_shape)
        self.output_dense = self._dense(input_shape[-1], "attention_output")
        width = self.num_heads * self.key_dim
        self.output_dense.build([*input_shape[:-1], width])

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Attends; `inputs` are of shape `[batch, length, channels]`."""
        small = self.key_dim**0.5
        heads = []
        for name, dense in zip(PARTS, self.projections, strict=True):
            factor = 1.0 if name == "value" else small
            x = scale_backward(inputs, 1 / factor)
            x = scale_backward(dense(x, training=training), factor)
            shape = [*self._lengths(x), self.num_heads, self.key_dim]
            heads.append(tf.reshape(x, shape))
        x = self._attend(*heads)
        width = self.num_heads * self.key_dim
        x = tf.reshape(x, [*self._lengths(x), width])
        return self.output_dense(x, training=training)

    def _attend(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor
    ) -> tf.Tensor:
        length = key.shape[1]
        if length is None:
            raise ValueError(
                "`inputs` must have a known length, as the factor of attention "
                f"follows from it. Received: shape {key.shape}"
            )
        factor = factors.attention(length, self.key_dim, self.use_causal_mask)
        mask = None
        if self.use_causal_mask:
            mask = tf.linalg.band_part(
                tf.ones([1, length, length], "bool"), -1, 0
            )
        logits = self._product("bqhd,bkhd->bhqk", query, key)
        weights = softmax.attention_weights(logits, 1 / self.key_dim, mask, 1)
        return self._product("bhqk,bkhd->bqhd", weights * factor, value)

    def _product(self, equation: str, lhs: Any, rhs: Any) -> tf.Tensor:
        recipe = policies.recipe_of_layer(self)
        if recipe is None or not recipe.attention:
            return keras.ops.einsum(equation, lhs, rhs)
        return ops.einsum(equation, lhs, rhs, recipe=recipe.as_current())

    @staticmethod
    def _lengths(x: tf.Tensor) -> list[Any]:
        """Returns batch and length."""
        return [tf.shape(x)[0], x.shape[1] or tf.shape(x)[1]]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        own = {
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "use_causal_mask": self.use_causal_mask,
            "depth": self.depth,
            "constraint": self.constraint,
        }
        return {**super().get_config(), **own}
