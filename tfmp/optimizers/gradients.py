"""Looking at a list of gradients, and working on it clear of FP8 state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp import checks, scaling

SMALL = 2**14  # elements


def map_gradients(
    function: Callable[[list[Any]], Sequence[Any]],
    gradients: Sequence[Any],
    variables: Sequence[Any],
) -> list[Any]:
    """Applies a function to the real gradients of a list only.

    Among the gradients of a model with FP8 layers are observed amax, which
    are no gradients: to clip, average or add noise to them would corrupt the
    scales, and they would count in a global norm.  `function` never sees
    them.

    The gradients are those of the scaled loss: multiply a clip norm by the
    loss scale, `optimizer.scale_loss(norm)`.

    Args:
        function: takes the list of real gradients and returns as many.
        gradients: what `tape.gradient(loss, variables)` gave.
        variables: the variables.

    Returns:
        All gradients in order, observations as they were.

    Raises:
        ValueError: if the lists differ in length, or `function` returns
            another number of gradients than it was given.

    >>> import keras, tensorflow as tf
    >>> from tfmp.layers import Dense
    >>> layer = Dense(2, dtype="mixed_float8")
    >>> with tf.GradientTape() as tape:
    ...     loss = 100.0 * tf.reduce_sum(layer(tf.ones([4, 8])))
    >>> variables = layer.trainable_variables
    >>> gradients = map_gradients(
    ...     lambda g: tf.clip_by_global_norm(g, 1.0)[0],
    ...     tape.gradient(loss, variables),
    ...     variables,
    ... )
    >>> round(float(tf.linalg.global_norm(gradients[:2])), 2)
    1.0
    >>> float(gradients[2][2])  # the amax of the output gradient, untouched
    100.0
    """
    checks.instance("function", function, Callable, "a function")
    said = "a list, one entry a variable"
    gradients = checks.sequence("gradients", gradients, object, said)
    variables = checks.sequence("variables", variables, object, said)
    if len(gradients) != len(variables):
        raise ValueError(
            "`gradients` and `variables` must be of one length. "
            f"Received: {len(gradients)} and {len(variables)}"
        )
    result = list(gradients)
    real = [
        index
        for index, variable in enumerate(variables)
        if not getattr(variable, "overwrite_with_gradient", False)
    ]
    mapped = list(function([gradients[i] for i in real]))
    if len(mapped) != len(real):
        raise ValueError(
            "`function` must return one gradient for each that it is given. "
            f"Received: {len(mapped)} for {len(real)}"
        )
    for index, gradient in zip(real, mapped, strict=True):
        result[index] = gradient
    return result


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
