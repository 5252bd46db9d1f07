"""Looking at a list of gradients, and taking the loss scale out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp._core import scaling

SMALL = 2**14  # elements


def fault(gradients: Sequence[Any], scale: Any) -> tf.Tensor:
    """Returns infinity if the gradients are bad, else zero.

        bad = max(abs(gradient)) / scale >= sqrt(largest float32 / elements)

    where elements are those of all gradients.  So it is for an infinity or a
    NaN, and for gradients that are finite but could make others infinite:
    their norm, or the squares that Adam keeps.  The maximum is one pass over
    each gradient, and one over all small ones; their norm would be two.

    Args:
        gradients: of the scaled loss, None where there is none.
        scale: the loss scale, float32 scalar.

    Returns:
        float32 scalar.

    >>> float(fault([tf.constant([1.0, 1e20]), None], 1.0))
    inf
    """
    dense = [getattr(g, "values", g) for g in gradients if g is not None]
    if not dense:
        return tf.constant(0.0)
    amax = scaling.joint_amax(_joined(dense))
    good = amax / scale < limit(dense)
    return tf.where(good, 0.0, float("inf"))


def limit(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns from which magnitude on gradients are bad, without a scale."""
    elements = tf.add_n([tf.size(g, tf.int64) for g in gradients])
    largest = tf.constant(tf.float32.max) / tf.cast(elements, tf.float32)
    return tf.sqrt(largest)


def _joined(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the gradients, the small ones as one vector."""
    sizes = [g.shape.num_elements() or SMALL for g in gradients]
    pairs = list(zip(gradients, sizes, strict=True))
    small = [
        tf.reshape(tf.cast(g, tf.float32), [-1]) for g, n in pairs if n < SMALL
    ]
    large = [g for g, n in pairs if n >= SMALL]
    return [*large, tf.concat(small, 0)] if small else large


def unscaled(
    gradients: Sequence[Any], variables: Sequence[Any], scale: tf.Tensor
) -> list[Any]:
    """Returns the gradients of the loss, from those of the scaled loss.

    Args:
        gradients: one a variable, or None.
        variables: of one that is overwritten with its gradient, that stays.
        scale: the loss scale.
    """
    return [
        gradient
        if gradient is None or getattr(v, "overwrite_with_gradient", False)
        else keras.ops.divide(gradient, scale)
        for gradient, v in zip(gradients, variables, strict=True)
    ]
