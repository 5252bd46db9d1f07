"""Broadcasting along axes whose lengths are known as the program runs only."""

from __future__ import annotations

import tensorflow as tf

Pairs = tuple[tuple[int, int], ...]


def broadcast(
    a: tf.Tensor, b: tf.Tensor, pairs: Pairs
) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings axes of two tensors to equal lengths, repeating a length of 1.

    Under XLA lengths are known, and equal ones cost nothing.

    Args:
        a: tensor.
        b: tensor.
        pairs: an axis of `a` and one of `b` each, one of unknown length.

    Returns:
        Both tensors.

    Raises:
        tf.errors.InvalidArgumentError: where the program runs, if lengths are
            neither equal nor 1.
    """
    for i, j in pairs:
        length = _common(a, i, b, j)
        left, right = a.shape[i], b.shape[j]
        a = _repeat("a", a, i, length, right) if left is None else a
        b = _repeat("b", b, j, length, left) if right is None else b
    return a, b


def _common(a: tf.Tensor, i: int, b: tf.Tensor, j: int) -> tf.Tensor:
    left, right = tf.shape(a)[i], tf.shape(b)[j]
    fits = (left == right) | (left == 1) | (right == 1)
    message = "`a` and `b` must have equal lengths, or 1, where they broadcast"
    received = [f"{message}. Received: shapes", tf.shape(a), tf.shape(b)]
    with tf.control_dependencies([tf.debugging.Assert(fits, received)]):
        return tf.where(left == 1, right, left)


def _repeat(
    name: str, x: tf.Tensor, axis: int, length: tf.Tensor, known: int | None
) -> tf.Tensor:
    """Returns a tensor with another length of an axis, of which it had 1."""
    shape = tf.unstack(tf.shape(x))
    shape[axis] = length
    result = tf.broadcast_to(x, shape, name=name)
    lengths = x.shape.as_list()
    lengths[axis] = known
    result.set_shape(lengths)
    return result
