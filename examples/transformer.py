"""The parts of a transformer: tokens with positions, and a block.

A block is pre-norm, as in GPT-2: `x + attention(norm(x))`, then the same with
two wide layers.  Causal ones also go token by token, with a cache of keys and
values of the tokens before.
"""

from __future__ import annotations

from typing import Any

from keras import initializers, layers, ops


class Tokens(layers.Layer):
    """Embeds tokens, and adds an embedding of their places.

    Args:
        vocabulary: how many tokens there are.
        places: the most tokens of a text.
        width: of the embeddings.
        spread: of the tokens' embeddings at the start.
    """

    def __init__(
        self, vocabulary: int, places: int, width: int, spread: float = 0.03
    ) -> None:
        super().__init__(name="tokens")
        self.token = layers.Embedding(
            vocabulary,
            width,
            initializers.RandomNormal(stddev=spread),
            name="token",
        )
        self.place = layers.Embedding(places, width, name="place")

    def call(self, tokens: Any, start: Any = 0) -> Any:
        """Embeds int32 [batch, length], of which the first is at `start`."""
        places = start + ops.arange(tokens.shape[1], dtype="int32")
        return self.token(tokens) + self.place(places)


class Block(layers.Layer):
    """Attention, then two wide layers, each beside a way around it.

    Args:
        width: of what goes in and comes out.
        heads: of the attention.
        causal: whether a token sees those before it only.
        name: of the layer.
        dropout: share of what attention and wide layers give.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool,
        name: str,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(name=name)
        self.heads, self.width, self.causal = heads, width, causal
        self.attention_norm = layers.LayerNormalization(name="attention_norm")
        self.attention = layers.MultiHeadAttention(
            heads,
            width // heads,
            kernel_initializer=initializers.RandomNormal(stddev=width**-0.5),
            name="attention",
        )
        self.norm = layers.LayerNormalization(name="norm")
        self.up = layers.Dense(4 * width, "gelu", name="up")
        self.down = layers.Dense(width, name="down")
        self.dropout = layers.Dropout(dropout)

    def call(self, x: Any) -> Any:
        y = self.attention_norm(x)
        y = self.attention(y, y, use_causal_mask=self.causal)
        return self._widely(x + self.dropout(y))

    def enable_lora(self, rank: int) -> None:
        """Freezes kernels and norms, and adds small factors to each kernel."""
        attention = self.attention
        for layer in (
            attention.query_dense,
            attention.key_dense,
            attention.value_dense,
            attention.output_dense,
            self.up,
            self.down,
        ):
            layer.enable_lora(rank)
        self.attention_norm.trainable = self.norm.trainable = False

    def cache(self, texts: int, places: int) -> Any:
        """Returns an empty cache of keys and values for `step`."""
        shape = [2, texts, places, self.heads, self.width // self.heads]
        return ops.zeros(shape, self.compute_dtype)

    def step(self, x: Any, cache: Any, at: Any) -> tuple[Any, Any]:
        """Does as `call` for one token, given those before in a cache.

        Args:
            x: the token, [batch, 1, width].
            cache: keys and values, [2, batch, places, heads, width / heads].
            at: the token's place.

        Returns:
            What `call` gives for it, and the cache with its key and value.
        """
        attention, y = self.attention, self.attention_norm(x)
        own = ops.stack([attention.key_dense(y), attention.value_dense(y)])
        cache = ops.slice_update(cache, [0, 0, at, 0, 0], own)
        seen = ops.arange(cache.shape[2]) <= at
        query = attention.query_dense(y)
        y = ops.dot_product_attention(
            query, cache[0], cache[1], mask=seen[None, None, None]
        )
        return self._widely(x + attention.output_dense(y)), cache

    def _widely(self, x: Any) -> Any:
        return x + self.dropout(self.down(self.up(self.norm(x))))
