"""Batch normalization whose averages no infinity gets into."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp._keras import layer_builds, replicas, step_undo
from tfmp._support import checks
from tfmp.layers.policy_mixin import Policied


@keras.saving.register_keras_serializable("tfmp")
class BatchNormalization(Policied, keras.layers.BatchNormalization):
    """Keras' `BatchNormalization`, with averages that stay finite.

        new = momentum * moving + (1 - momentum) * statistic of the batch
        moving = new if all of the layer's new averages are finite else moving

    A step that overflows is skipped by a loss-scaling optimizer, but the
    forward pass has put its infinity into the moving averages by then, where
    no later step gets it out.  Here such a batch changes no average, on no
    replica.  On all other batches it is the Keras layer, bit for bit, but for
    this: replicas see different data, and in Keras each keeps averages of its
    own, unless `synchronized=True`.  Here all keep the mean over replicas.

    One rule decides, for the layer and not for a channel, by what would be
    stored: a mean and the variance about it, and the channels that the next
    layer combines, then always stem from the same batches.  So values count
    too whose variance overflows float32, or the variables' dtype: under
    `float16` one of 6.5 million; `mixed_float16` keeps float32 variables.

    If the gradients of a finite batch overflow, `LossScaleOptimizer` puts the
    averages back with everything else, where the forward pass and `apply` are
    in one `tf.function`, as in `fit`.  Run eagerly, such a batch counts.

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

    @layer_builds.of_present_class
    def build(self, input_shape: Any) -> None:
        """Creates the Keras layer's variables.

        Raises:
            TypeError, ValueError: if `input_shape` is no shape, or has no
                such axis as `axis`.
        """
        input_shape = checks.shape("input_shape", input_shape)
        try:
            super().build(input_shape)
        except IndexError as error:
            raise ValueError(
                "`input_shape` must have the axis that `axis` names. "
                f"Received: input_shape={input_shape}, axis={self.axis}"
            ) from error

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Any:
        """Normalizes; in training, takes the batch into the averages."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        averages = self.non_trainable_variables
        values = [tf.identity(tf.convert_to_tensor(v)) for v in averages]
        for variable, value in zip(averages, values, strict=True):
            step_undo.remember(variable, value)
        before = tf.stack(values)
        outputs = super().call(inputs, training=training, mask=mask)
        after = tf.stack([tf.convert_to_tensor(v) for v in averages])
        after = replicas.mean(after)
        finite = tf.reduce_all(keras.ops.isfinite(after))
        values = tf.unstack(tf.where(finite, after, before))
        for variable, value in zip(averages, values, strict=True):
            variable.assign(value)
        return outputs
