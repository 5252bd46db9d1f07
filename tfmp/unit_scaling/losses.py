"""The cross-entropy of logits, whose gradient has a standard deviation of 1."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp.unit_scaling.gradient_scaling import scale_backward


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class SparseCategoricalCrossentropy(keras.losses.Loss):
    """The mean cross-entropy of logits, with a gradient of unit scale.

        dlogits = (softmax(logits) - one_hot(y)) * n / sqrt(n - 1)

    of `n` classes: that of the sum over all rows, as the mean would divide it.

    Args:
        **kwargs: those of `keras.losses.Loss`.

    Source: arXiv 2407.17465, appendix B.

    >>> loss = SparseCategoricalCrossentropy()
    >>> round(float(loss([0], [[0.0, 0.0]])), 4)
    0.6931
    """

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of each row."""
        y_pred = tf.convert_to_tensor(y_pred)
        shape = tf.cast(tf.shape(y_pred), tf.float32)
        classes = shape[-1]
        factor = classes * tf.math.rsqrt(tf.maximum(classes - 1, 1))
        if self.reduction in ("sum_over_batch_size", "mean"):
            factor *= tf.reduce_prod(shape[:-1])
        return keras.losses.sparse_categorical_crossentropy(
            y_true, scale_backward(y_pred, factor), from_logits=True
        )
