"""The softmax of attention, which keeps only what its gradient needs.

    w = softmax(c * logits)             over the keys that are not masked
    d_logits = c * w * (dw - sum(w * dw))

Computed in float32, kept in 16 bits: `w` is by far the largest tensor of an
attention layer, and XLA would keep it in float32 from the forward pass to the
backward pass, as it takes the way through 16 bits for a detour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfmp._core import custom_gradients, stablehlo


def attention_weights(
    logits: tf.Tensor, factor: float, mask: Any, axes: int
) -> tf.Tensor:
    """Returns the softmax over the last axes.

    Where everything is masked all weights are alike, as Keras has it.

    Args:
        logits: of shape `[batch..., heads, queries..., keys...]`.
        factor: multiplies the logits, in float32.
        mask: true where attention is allowed; axes that it lacks are heads
            and those next to them.  None allows all.
        axes: how many axes of queries there are, and of keys.

    Returns:
        Tensor of the dtype and shape of `logits`.

    Source: arXiv 1706.03762, section 3.2.1; that the 16-bit result is what is
    kept is how Megatron-LM and Transformer Engine do it.
    """
    allowed = None if mask is None else _aligned(mask, logits.shape.rank, axes)
    over = list(range(-axes, 0))

    @custom_gradients.custom_gradient
    def run(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        """Returns the weights, in 16 bits."""
        wide = tf.cast(logits, tf.float32) * factor
        if allowed is not None:
            wide = tf.where(allowed, wide, wide.dtype.min)
        top = tf.stop_gradient(tf.reduce_max(wide, over, keepdims=True))
        powers = tf.exp(wide - top)
        weights = powers / tf.reduce_sum(powers, over, keepdims=True)
        kept = stablehlo.fence(tf.cast(weights, logits.dtype))

        def grad(upstream: tf.Tensor) -> tf.Tensor:
            """Returns the gradient of the logits, from the kept weights."""
            w = tf.cast(kept, tf.float32)
            dw = tf.cast(upstream, tf.float32)
            total = tf.reduce_sum(w * dw, over, keepdims=True)
            wide = factor * w * (dw - total)
            if allowed is not None:
                wide = tf.where(allowed, wide, 0.0)
            return stablehlo.fence(tf.cast(wide, upstream.dtype))

        return kept, grad

    return run(logits)


def _aligned(mask: Any, rank: int, axes: int) -> tf.Tensor:
    mask = tf.cast(mask, tf.bool)
    for _ in range(rank - mask.shape.rank):
        mask = tf.expand_dims(mask, -2 * axes - 1)
    return mask
