"""The amax windows of all contractions of a model, in one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import recipes, scaling, stablehlo
from tfmp.layers.state import is_amax


class AmaxHistory:
    """Delayed scaling for all `amax` variables of a model at once.

        history[0] = observed
        amax       = max over the window of history

    where the window of a variable is its recipe's `amax_history_len` steps,
    or the newest step for `amax_compute_algo="most_recent"`.  A window with
    no observation above zero leaves the variable as it is.

    The optimizer's loss scale multiplies gradients, and so their amax: when
    it changes by a factor, the gradient part changes with it.

    Invariants: row `i` of the array belongs to `variables[i]`; nothing that
    is not finite enters it; every method is a fixed number of operations but
    for one gather and one scatter of `[3]` vectors.

    Args:
        trainable: all variables that the optimizer is built with; the rows
            are the `amax` among them.
    """

    def __init__(self, trainable: Sequence[keras.Variable]) -> None:
        self.trainable = list(trainable)
        self.variables = [v for v in self.trainable if is_amax(v)]
        self.rows = {id(v): row for row, v in enumerate(self.variables)}
        self.lengths = [_window_length(v.recipe) for v in self.variables]
        self.history: Any = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array: `[steps, variables, roles]`."""
        steps = max(self.lengths, default=0)
        return steps, len(self.variables), len(recipes.ROLES)

    def start(self, loss_scale: float) -> None:
        """Puts the prior of gradients no step has seen in scaled units.

        A model that is not built yet when its step is first traced has no
        values to start from; its first step clips gradients above the prior.
        """
        with tf.init_scope():
            for variable in self.variables:
                if variable.value.is_initialized():
                    self._start_one(variable, loss_scale)

    def _start_one(self, variable: Any, loss_scale: float) -> None:
        target = variable.recipe.format("grads")
        prior = scaling.PRIOR_AMAX["grads", target.name] * loss_scale
        *others, grads = tf.unstack(tf.convert_to_tensor(variable))
        grads = tf.where(scaling.is_observed(grads), grads, prior)
        variable.assign(tf.stack([*others, grads]))

    def follow(self, old: AmaxHistory, loss_scale: float) -> None:
        """Takes over what an older history has of the same variables.

        Args:
            old: the history before.
            loss_scale: for the variables that are new.
        """
        history = np.zeros(self.shape, np.float32)
        before = np.asarray(old.history)
        steps = min(len(before), len(history))
        for row, variable in enumerate(self.variables):
            if id(variable) in old.rows:
                was = old.rows[id(variable)]
                history[:steps, row] = before[:steps, was]
            else:
                self._start_one(variable, loss_scale)
        self.history.assign(history)

    def fit(self, saved: Any) -> np.ndarray:
        """Returns a saved array with the number of steps of this one.

        Of another number of variables nothing is known: no observation; nor
        of what is not finite.
        """
        saved = np.where(np.isfinite(saved), saved, 0.0)
        history = np.zeros(self.shape, np.float32)
        if saved.shape[1:] == history.shape[1:]:
            steps = min(len(saved), len(history))
            history[:steps] = saved[:steps]
        return history

    def observed(self, pairs: Sequence[tuple[Any, Any]]) -> tf.Tensor:
        """Orders observations by row; zero for a variable without one.

        Args:
            pairs: (what the tape gave or None, variable), for some or all of
                this history's variables.

        Returns:
            float32 of shape `[variables, 3]`.
        """
        given = {self.rows[id(v)]: g for g, v in pairs if g is not None}
        nothing = tf.zeros([len(recipes.ROLES)])
        rows = [given.get(row, nothing) for row in self.rows.values()]
        return tf.stack(rows) if rows else tf.zeros([0, len(recipes.ROLES)])

    def push(
        self, observed: tf.Tensor, factor: Any = 1.0, first: Any = True
    ) -> None:
        """Takes in a step's observations and renews every variable.

        Args:
            observed: finite float32 of shape `[variables, 3]`, or flat.
            factor: by which the loss scale changes after this step.
            first: whether the step is the first micro-batch of an update; the
                others share its entry of the window, the maximum of all.
        """
        history = tf.convert_to_tensor(self.history)
        observed = tf.reshape(observed, self.shape[1:])
        pushed = scaling.push(history, observed)
        if first is not True:
            pushed = tf.where(first, pushed, scaling.merge(history, observed))
        self._write(pushed, factor)

    def rescale(self, factor: Any) -> None:
        """Follows a change of the loss scale in a step without observation.

        Args:
            factor: by which the loss scale changes.
        """
        self._write(tf.convert_to_tensor(self.history), factor)

    def _write(self, history: tf.Tensor, factor: Any) -> None:
        by_role = tf.stack([1.0, 1.0, factor])
        history = tf.minimum(history * by_role, tf.float32.max)
        steps = tf.range(self.shape[0])[:, tf.newaxis]
        window = scaling.window_amax(history, steps < self.lengths)
        values = tf.stack([tf.convert_to_tensor(v) for v in self.variables])
        # All are read before one is written: else XLA copies each of them.
        values = stablehlo.fence(values)
        scaled = tf.minimum(values * by_role, tf.float32.max)
        values = tf.where(window > 0, window, scaled)
        self.history.assign(history)
        rows = tf.unstack(values)
        for variable, value in zip(self.variables, rows, strict=True):
            variable.assign(value)


def _window_length(recipe: recipes.Recipe) -> int:
    if isinstance(recipe, recipes.DelayedScaling):
        recent = recipe.amax_compute_algo == "most_recent"
        return 1 if recent else recipe.amax_history_len
    return 1
