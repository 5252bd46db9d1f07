"""What training passes see of a contraction, and what the next one assumes.

One float32 array of shape `[4, 3]` a layer, a column for each role:

    assumed   the amax that scales follow from
    seen      the largest amax of the last pass
    since     the largest amax since an optimizer took it; may be infinite
    turn      counts, to 1024: changes with each pass's first observation

A pass begins by reading it, and assumes

    amax = max(seen, fade * assumed) where something was seen, else assumed

Its backward pass writes what it saw, each entry the maximum with what is there.
So several calls, micro-batches, recomputation and several losses need nothing
more, and a layer goes on by itself with any optimizer, or with none.  That of
tfmp takes `since`, keeps a window of it, and writes `assumed`.

What a pass sees is written by the gradient of its product, and so only where
there is one.  A `turn` that has changed since the pass began says that another
product of it, or another pass, was first.

In one graph all is one pass, until an optimizer takes what was seen: calls,
micro-batches and recomputation assume the same, and XLA quantizes a kernel once
for all of them.  Each replica has a copy of the array, and passes of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfmp import recipes
from tfmp._keras import training_pass

ASSUMED, SEEN, SINCE, TURN = range(4)
TURNS = 1024.0
SHAPE = (4, len(recipes.ROLES))


class Pass(NamedTuple):
    """One pass through a contraction.

    Attributes:
        amax: what it assumes, float32 of shape `[3]`.
        take_in: takes what it has seen, the same; for this graph, and for
            gradients of it.
    """

    amax: tf.Tensor
    take_in: Callable[[tf.Tensor], None]


def begin(variable: Any, fade: float) -> Pass:
    """Begins a pass.

    Args:
        variable: Keras variable of shape `[4, 3]`.
        fade: what is left of an assumption after a pass, from 0 to 1.
    """
    read, write = training_pass.access(variable)
    amax, turn = _beginning(variable, fade)

    def take_in(observed: tf.Tensor) -> None:
        write(after(read(), amax, turn, tf.stop_gradient(observed)))

    return Pass(amax, take_in)


def _beginning(variable: Any, fade: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what a pass assumes, and the turn at its beginning."""
    begun = training_pass.of_graph("tfmp_passes")
    place = training_pass.place(variable)
    if place in begun:
        result: tuple[tf.Tensor, tf.Tensor] = begun[place][1:]
        return result
    state = tf.convert_to_tensor(variable)
    found = assumed(state, fade), state[TURN]
    begun[place] = (variable, *found)  # which keeps the id its own
    return found


def end_pass(variable: Any) -> None:
    """Has the next pass of a graph begin with what the variable holds then."""
    begun = training_pass.of_graph("tfmp_passes")
    begun.pop(training_pass.place(variable), None)


def assumed(state: tf.Tensor, fade: Any) -> tf.Tensor:
    """Returns what a pass that begins now assumes.

    Args:
        state: float32 of shape `[..., 4, 3]`.
        fade: number, or of shape `[..., 1]`.

    Returns:
        float32 of shape `[..., 3]`.
    """
    before, seen = state[..., ASSUMED, :], state[..., SEEN, :]
    return tf.where(seen > 0, tf.maximum(seen, fade * before), before)


def after(
    state: tf.Tensor, amax: tf.Tensor, turn: tf.Tensor, observed: tf.Tensor
) -> tf.Tensor:
    """Returns the state with an observation; one not finite is not assumed.

    Args:
        state: float32 of shape `[4, 3]`, as it is now.
        amax: what the pass assumed.
        turn: as it was when the pass began.
        observed: float32 of shape `[3]`.
    """
    before, seen, since, now = tf.unstack(state)
    first = now == turn
    finite = tf.where(observed < float("inf"), observed, 0.0)
    return tf.stack(
        [
            tf.where(first, amax, before),
            tf.maximum(tf.where(first, 0.0, seen), finite),
            tf.maximum(since, observed),
            tf.where(first, tf.math.floormod(turn + 1.0, TURNS), now),
        ]
    )


def settled(amax: tf.Tensor) -> tf.Tensor:
    """Returns states that assume an amax, and have seen nothing since.

    Args:
        amax: float32 of shape `[..., 3]`.

    Returns:
        float32 of shape `[..., 4, 3]`.
    """
    return tf.stack([amax, *[tf.zeros_like(amax)] * 3], axis=-2)
