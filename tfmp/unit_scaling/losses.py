"""Losses whose gradient begins with a standard deviation of 1.

The loss is that of Keras, a mean.  Its gradient is that of the sum, times a
factor, so that the number of rows does not take it out of a format's range.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp._support import checks
from tfmp.unit_scaling.scale import scale_backward, scale_forward


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class SparseCategoricalCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy of logits, with a gradient of unit scale.

        loss    = mean(-log(softmax(alpha * logits)[y]))
        dlogits = (softmax(alpha * logits) - one_hot(y)) * n / sqrt(n - 1)

    of `n` classes.

    Args:
        alpha: u-muP's multiplier of the logits, from 2**-16 to 2**16.
        **kwargs: those of Keras' class, but for `from_logits` and `axis`.

    Raises:
        TypeError, ValueError: if `alpha` is not allowed.

    Source: arXiv 2407.17465, appendix B.

    >>> loss = SparseCategoricalCrossentropy()
    >>> round(float(loss(tf.constant([0]), tf.constant([[0.0, 0.0]]))), 4)
    0.6931
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(from_logits=True, **kwargs)
        self.alpha = checks.number("alpha", alpha, 2.0**-16, 2.0**16)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of each row."""
        y_pred = tf.convert_to_tensor(y_pred)
        classes = tf.cast(tf.shape(y_pred)[-1], tf.float32)
        factor = classes * tf.math.rsqrt(tf.maximum(classes - 1, 1))
        logits = scale_backward(y_pred, factor * _divisor(self, y_pred))
        return super().call(y_true, scale_forward(logits, self.alpha))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = {**super().get_config(), "alpha": self.alpha}
        fixed = ("from_logits", "axis")
        return {k: v for k, v in config.items() if k not in fixed}


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class MeanSquaredError(keras.losses.MeanSquaredError):
    """Mean squared error, with a gradient of unit scale.

        loss    = mean((y_pred - y)**2)
        dy_pred = (y_pred - y) / sqrt(2)

    which has a standard deviation of 1 if both have one.

    Args:
        **kwargs: those of `keras.losses.MeanSquaredError`.

    Source: arXiv 2303.11257, appendix, table of factors.

    >>> float(MeanSquaredError()(tf.constant([[1.0]]), tf.constant([[3.0]])))
    4.0
    """

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of each row."""
        y_pred = tf.convert_to_tensor(y_pred)
        width = tf.cast(tf.shape(y_pred)[-1], tf.float32)
        factor = 8**-0.5 * width * _divisor(self, y_pred)
        return super().call(y_true, scale_backward(y_pred, factor))


def _divisor(loss: keras.losses.Loss, y_pred: tf.Tensor) -> Any:
    """Returns by what Keras divides the sum over the rows."""
    if loss.reduction not in ("sum_over_batch_size", "mean"):
        return 1.0
    return tf.cast(tf.reduce_prod(tf.shape(y_pred)[:-1]), tf.float32)
