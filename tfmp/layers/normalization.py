"""Batch normalization whose averages no infinity gets into."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp import policies


@keras.saving.register_keras_serializable("tfmp")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' `BatchNormalization`, with averages that stay finite.

        new = momentum * moving + (1 - momentum) * statistic of the batch
        moving = new if all of the layer's new averages are finite else moving

    A step that overflows is skipped by a loss-scaling optimizer, but the
    forward pass has put its infinity into the moving averages by then, where
    no later step gets it out.  Here such a batch changes no average, on no
    replica.  On all other batches it is the Keras layer, bit for bit.

    One rule decides, for the layer and not for a channel, by what would be
    stored: a mean and the variance about it, and the channels that the next
    layer combines, then always stem from the same batches.  So values count
    too whose variance overflows float32, or the variables' dtype: under
    `float16` one of 6.5 million; `mixed_float16` keeps float32 variables.

    A finite batch counts, also if the optimizer skips its step because
    gradients overflow: they do so by the loss scale, which says nothing about
    the activations.

    Args:
        *args: those of `keras.layers.BatchNormalization`.
        dtype: a policy or its name, also `"mixed_float8"`: it has no product
            to run in FP8, and computes in float32 as in Keras.
        **kwargs: those of `keras.layers.BatchNormalization`.

    Source: arXiv 1502.03167, section 3.1 (the moving averages).

    >>> layer = BatchNormalization(momentum=0.5)
    >>> for batch in ([[1.0], [3.0]], [[1.0], [float("inf")]]):
    ...     outputs = layer(keras.ops.array(batch), training=True)
    >>> layer.moving_mean.numpy().tolist()
    [1.0]
    """

    def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, dtype=policies.get(dtype), **kwargs)

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Any:
        """Normalizes; in training, takes the batch into the averages."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        averages = self.non_trainable_variables
        before = [tf.convert_to_tensor(v) for v in averages]
        outputs = super().call(inputs, training=training, mask=mask)
        after = [tf.convert_to_tensor(v) for v in averages]
        finite = _on_all_replicas(_all_finite(after))
        for variable, old, new in zip(averages, before, after, strict=True):
            variable.assign(tf.where(finite, new, old))
        return outputs


def _all_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    each = [tf.reduce_all(keras.ops.isfinite(t)) for t in tensors]
    return tf.reduce_all(tf.stack(each))


def _on_all_replicas(flag: tf.Tensor) -> tf.Tensor:
    """Returns whether the flag is true on every replica."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return flag
    against = tf.where(flag, 0.0, 1.0)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, against) == 0.0
