"""Attention layers: FP8 projections, and FP8 scores and values by recipe."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfmp import ops, policies, recipes
from tfmp._keras import (
    class_and_policy,
    global_notes,
    layer_builds,
    layer_parts,
)
from tfmp._support import checks
from tfmp.layers import softmax
from tfmp.layers.dense import EinsumDense
from tfmp.layers.policy_mixin import Policied
from tfmp.layers.probe_mixin import Measured

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object

PRODUCTS = ("scores", "values")


class Float8Attention(Policied, Measured, Base):
    """Mixin for a Keras attention layer; put it before the Keras class.

    The layer has no FP8 state of its own: each of its projections, which
    Keras creates in `build`, becomes a `tfmp.layers.EinsumDense`.  With a
    recipe that says `attention=True`, the products between them run on FP8
    operands too; one with `high_precision_projections` keeps products of the
    projections out.  Without a recipe the layer is the Keras layer.

    Attributes:
        projection: the class that each projection becomes.
    """

    projection: type[EinsumDense] = EinsumDense

    @property
    def recipe(self) -> recipes.Recipe | None:
        """The recipe that the layer's policy has, None if it has none."""
        return policies.recipe_of_layer(self)

    @layer_builds.of_present_class
    def build(
        self, query_shape: Any, value_shape: Any, key_shape: Any = None
    ) -> None:
        """Creates the Keras layer's projections, and their FP8 state.

        Raises:
            TypeError, ValueError: if a shape is none, or has less than three
                axes.
        """
        checks.shape("query_shape", query_shape, 3)
        checks.shape("value_shape", value_shape, 3)
        if key_shape is not None:
            checks.shape("key_shape", key_shape, 3)
        with global_notes.converting_children():
            super().build(query_shape, value_shape, key_shape)
        self.update_float8()

    def update_float8(self) -> None:
        """Brings the projections in line with the policy, and checks it.

        Raises:
            ValueError: if the layer asks for flash attention, and the recipe
                for FP8 there.
        """
        recipe = self.recipe
        if recipe is not None and recipe.attention and self._flash_attention:
            raise ValueError(
                "`flash_attention` must be None or False under a recipe with "
                "attention=True: one fused kernel in the compute dtype, or "
                "two products on FP8 operands. Received: flash_attention="
                f"{self._flash_attention!r}, recipe={recipe!r}"
            )
        for child in layer_parts.children(self):
            if isinstance(child, keras.layers.EinsumDense):
                # In a layer that was frozen before `build`, it is not yet.
                child.trainable = child.trainable and self.trainable
                policy = policies.in_projections(child.dtype_policy, child.path)
                cls = class_and_policy.extended(child, self.projection)
                class_and_policy.become(child, policy, cls)

    def float8_operators(self) -> dict[str, recipes.Recipe]:
        """Returns the recipe of scores and of values, if they are in FP8."""
        recipe = self.recipe
        if recipe is None or not recipe.attention:
            return {}
        return dict.fromkeys(PRODUCTS, recipe.as_current())

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: bool | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Keras' extension point: from projections to what each head gives.

        As it is overridden, Keras hands the causal mask over as a mask.
        """
        if self._attends_as_keras:
            found: tuple[Any, Any] = super()._compute_attention(
                query, key, value, attention_mask, training, *args, **kwargs
            )
            return found
        if kwargs.get("use_causal_mask"):
            causal = self._compute_causal_mask(query, value)
            attention_mask = _both_allow(attention_mask, causal)
        scores, values, axes = _equations(self._combine_equation)
        logits = self._product("scores", scores, query, key, training)
        scale, factor = self._attention_factors(logits, query.shape[-1], axes)
        weights = softmax.attention_weights(logits, scale, attention_mask, axes)
        x = self._dropout_layer(weights, training=training)
        if factor is not None:
            x *= tf.cast(factor, x.dtype)
        x = self._product("values", values, x, value, training)
        return x, weights

    @property
    def _attends_as_keras(self) -> bool:
        """Whether Keras computes the attention."""
        return self.recipe is None or bool(self._flash_attention)

    def _attention_factors(
        self, logits: tf.Tensor, key_dim: int, axes: int
    ) -> tuple[float, Any]:
        """Returns the factor of logits, and that of weights if they have one.

        Args:
            logits: whose last axes are the keys.
            key_dim: size of a head.
            axes: how many axes the keys have.
        """
        return key_dim**-0.5, None

    def _compute_causal_mask(self, query: Any, value: Any = None) -> tf.Tensor:
        """Keras' mask, from two ranges in place of two cumulated sums."""
        source = query if value is None else value
        lengths = (keras.ops.shape(x)[1] for x in (query, source))
        rows, columns = map(tf.range, lengths)
        return (rows[:, tf.newaxis] >= columns)[tf.newaxis]

    def _product(
        self, name: str, equation: str, lhs: Any, rhs: Any, training: Any
    ) -> Any:
        """Multiplies on FP8 operands if the recipe says so."""
        recipe = self.float8_operators().get(name)
        if recipe is None:
            return keras.ops.einsum(equation, lhs, rhs)
        run = ops.Pass(probe=self.float8_probe(name, training))
        return ops.einsum(equation, lhs, rhs, recipe=recipe, amax=run)


def _equations(values: str) -> tuple[str, str, int]:
    """Returns the equations of scores and values, and how many axes attend."""
    weights, source, target = re.split(",|->", values)
    axes = sum(label not in target for label in source)
    return f"{target},{source}->{weights}", values, axes


def _both_allow(mask: Any, other: tf.Tensor) -> tf.Tensor:
    return other if mask is None else tf.cast(mask, tf.bool) & other


@keras.saving.register_keras_serializable("tfmp")
class MultiHeadAttention(Float8Attention, keras.layers.MultiHeadAttention):
    """Keras' `MultiHeadAttention`, whose products run on FP8 operands.

        q, k, v = (einsum("btd,dnh->btnh", x, kernel) + bias  of each)
        y = softmax(q @ k.T / sqrt(key_dim)) @ v
        output = einsum("btnh,nhd->btd", y, kernel) + bias

    The four projections, and the gate if there is one, are
    `tfmp.layers.EinsumDense`: under a policy with a recipe, such as
    `mixed_float8`, they run in FP8.  The two products of `y` run in the
    compute dtype, or, by a recipe with `attention=True`, on FP8 operands that
    are scaled by their own amax; flash attention then raises an error.  The
    softmax is in float32, and kept in the compute dtype for its gradient.
    Under any other policy it is the Keras layer, bit for bit.

    Args:
        *args: those of `keras.layers.MultiHeadAttention`.
        dtype: a policy or its name, also `"mixed_float8"`.
        **kwargs: those of `keras.layers.MultiHeadAttention`.

    Raises:
        ValueError: at `build`, if a recipe with `attention=True` meets
            `flash_attention=True`.

    Source: arXiv 1706.03762, section 3.2 (the layer); arXiv 2209.05433,
    section 3 (which operands are FP8).

    >>> layer = MultiHeadAttention(2, 4, dtype="mixed_float8")
    >>> x = keras.ops.ones([1, 3, 8])
    >>> layer(x, x, use_causal_mask=True).shape
    TensorShape([1, 3, 8])
    >>> [type(each).__module__ for each in (layer.query_dense, layer)]
    ['tfmp.layers.dense', 'tfmp.layers.attention']
    """


@keras.saving.register_keras_serializable("tfmp")
class GroupedQueryAttention(Float8Attention, keras.layers.GroupQueryAttention):
    """Keras' `GroupQueryAttention`, whose products run on FP8 operands.

        q, k, v = (einsum("btd,dnh->btnh", x, kernel) + bias  of each)
        y = softmax(q @ repeat(k).T / sqrt(head_dim)) @ repeat(v)
        output = einsum("btnh,nhd->btd", y, kernel) + bias

    where each head of `k` and `v` serves several heads of `q`.  What runs in
    FP8 is as for `MultiHeadAttention`.

    Args:
        *args: those of `keras.layers.GroupQueryAttention`.
        dtype: a policy or its name, also `"mixed_float8"`.
        **kwargs: those of `keras.layers.GroupQueryAttention`.

    Raises:
        ValueError: at `build`, if a recipe with `attention=True` meets
            `flash_attention=True`.

    Source: arXiv 2305.13245, section 2.2 (the layer); arXiv 2209.05433,
    section 3 (which operands are FP8).

    >>> layer = GroupedQueryAttention(4, 4, 2, dtype="mixed_float8")
    >>> x = keras.ops.ones([1, 3, 8])
    >>> layer(x, x).shape
    TensorShape([1, 3, 8])
    """
