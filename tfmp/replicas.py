"""What the replicas of a `tf.distribute` strategy agree on."""

from __future__ import annotations

import tensorflow as tf


def maximum(x: tf.Tensor) -> tf.Tensor:
    """Returns the elementwise maximum over all replicas; alone, `x` itself.

    Args:
        x: tensor of the same shape on every replica, without NaN.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return tf.reduce_max(context.all_gather(x[tf.newaxis], axis=0), axis=0)
