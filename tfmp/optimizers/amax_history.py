"""The amax windows of all contractions of a model, in one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfmp import recipes
from tfmp._core import observations, scaling, stablehlo
from tfmp._core.observations import SHAPE
from tfmp.layers.float8_state import Float8State, states_of


class AmaxHistory:
    """Delayed scaling for all contractions of a model at once.

        history[0] = the largest amax since the last step
        amax       = max over the window of history

    where the window of a layer is its recipe's.  A window with no observation
    above zero leaves what the layer assumes as it is.

    The optimizer's loss scale multiplies gradients, and so their amax: when
    it changes by a factor, the gradient part changes with it.

    Invariants: row `i` of the array belongs to `states[i]`; nothing that is
    not finite enters it; every method is a fixed number of operations but for
    one gather and one scatter of a row each.

    Args:
        trained: all variables that the optimizer trains; the rows are the
            layers in FP8 that these belong to.
    """

    def __init__(self, trained: Sequence[Any]) -> None:
        self.states = states_of(trained)
        self.rows = {id(s): row for row, s in enumerate(self.states)}
        self.lengths = [s.recipe.window for s in self.states]
        self.history: Any = None

    def is_of(self, trained: Sequence[Any]) -> bool:
        """Whether these variables still belong to the same layers in FP8."""
        lengths = {id(s): s.recipe.window for s in states_of(trained)}
        return lengths == dict(zip(self.rows, self.lengths, strict=True))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array: `[steps, layers, roles]`."""
        steps = max(self.lengths, default=0)
        return steps, len(self.states), len(recipes.ROLES)

    @property
    def is_restored(self) -> bool:
        """Whether the new array has values, by a `tf.train.Checkpoint`."""
        with tf.init_scope():
            value = self.history.value
            return bool(value.is_initialized()) and bool(np.any(value))

    def start(self, loss_scale: float, keep: bool) -> None:
        """Puts the prior of gradients in scaled units, for a first step.

        A model that is not built yet when its step is first traced has no
        values to start from; its first step clips gradients above the prior.

        Args:
            loss_scale: the optimizer's.
            keep: whether what the layers have seen was under that loss scale.
                Else the gradients' part is dropped, which is in units of
                another one, and all that no optimizer has taken.
        """
        with tf.init_scope():
            for state in self.states:
                if state.variable.value.is_initialized():
                    _start_one(state, loss_scale, keep)

    def follow(self, old: AmaxHistory, loss_scale: float) -> None:
        """Takes over what an older history has of the same layers.

        Args:
            old: the history before.
            loss_scale: for the layers that are new.
        """
        history = np.zeros(self.shape, np.float32)
        before = np.asarray(old.history)
        steps = min(len(before), len(history))
        for row, state in enumerate(self.states):
            if id(state) in old.rows:
                was = old.rows[id(state)]
                history[:steps, row] = before[:steps, was]
            else:
                _start_one(state, loss_scale, keep=True)
        self.history.assign(history)

    def fit(self, saved: Any) -> np.ndarray:
        """Returns a saved array with the number of steps of this one.

        Of another number of layers nothing is known: no observation; nor of
        what is not finite.
        """
        saved = np.where(np.isfinite(saved), saved, 0.0)
        history = np.zeros(self.shape, np.float32)
        if saved.shape[1:] == history.shape[1:]:
            steps = min(len(saved), len(history))
            history[:steps] = saved[:steps]
        return history

    def observed(self) -> tf.Tensor:
        """Returns what all layers have seen since the last step.

        Returns:
            float32 of shape `[layers, 3]`; infinite where something was.
        """
        return self._read()[:, observations.SINCE]

    def renew(
        self,
        observed: tf.Tensor,
        good: Any = True,
        factor: Any = 1.0,
        first: Any = True,
    ) -> None:
        """Takes in a step's observations and renews every layer.

        Args:
            observed: float32 of shape `[layers, 3]`, or flat; finite if the
                step is good.
            good: whether the step counts; if not, what was seen is dropped.
            factor: by which the loss scale changes after this step.
            first: whether the step is the first micro-batch of an update; the
                others share its entry of the window, the maximum of all.
        """
        history = tf.convert_to_tensor(self.history)
        observed = tf.reshape(observed, self.shape[1:])
        pushed = scaling.push(history, observed)
        if first is not True:
            pushed = tf.where(first, pushed, scaling.merge(history, observed))
        by_role = tf.stack([1.0, 1.0, factor])
        history = _scaled(tf.where(good, pushed, history), by_role)
        steps = tf.range(self.shape[0])[:, tf.newaxis]
        window = scaling.window_amax(history, steps < self.lengths)
        # All are read before one is written: else XLA copies each of them.
        before = stablehlo.fence(self._read()[:, observations.ASSUMED])
        amax = _scaled(before, by_role)
        amax = tf.where(window > 0, window, amax)
        self.history.assign(history)
        rows = tf.unstack(observations.settled(amax))
        for state, row in zip(self.states, rows, strict=True):
            state.variable.assign(row)
            observations.end_pass(state.variable)

    def _read(self) -> tf.Tensor:
        """Returns the states, float32 of shape `[layers, 4, 3]`."""
        states = [tf.convert_to_tensor(s.variable) for s in self.states]
        return tf.stack(states) if states else tf.zeros([0, *SHAPE])


def _scaled(amax: tf.Tensor, by_role: tf.Tensor) -> tf.Tensor:
    return tf.minimum(amax * by_role, tf.float32.max)


def _start_one(state: Float8State, loss_scale: float, keep: bool) -> None:
    target = state.recipe.format("grads")
    prior = scaling.PRIOR_AMAX["grads", target.name] * loss_scale
    if not keep:
        inputs, kernel, _ = tf.unstack(state.amax)
        state.assume(tf.stack([inputs, kernel, prior]))
        return
    assumed, *seen = tf.unstack(tf.convert_to_tensor(state.variable))
    inputs, kernel, grads = tf.unstack(assumed)
    grads = tf.where(scaling.is_observed(grads), grads, prior)
    state.variable.assign(tf.stack([tf.stack([inputs, kernel, grads]), *seen]))
