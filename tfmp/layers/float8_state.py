"""The FP8 state of a contraction: one small variable, in a layer of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import recipes
from tfmp._core import observations


@keras.saving.register_keras_serializable("tfmp")
class Float8State(keras.layers.Layer):
    """What the training passes of a contraction see, and what they assume.

    It is zero until a pass has observed something.  Nothing trains it: the
    backward pass assigns what it saw, each replica to a copy of its own, and an
    optimizer of tfmp takes it from there.

    A contraction keeps it in a sublayer so that its own variables, and its
    part of a weights file, are those of the Keras layer: either loads the
    other's file, and state that a file lacks counts as not observed.  It is
    among the layer's `variables`, as seeds are, and not among its `weights`.

    Args:
        recipe: what the contraction uses.
        **kwargs: those of `keras.layers.Layer`.
    """

    def __init__(self, recipe: recipes.Recipe, **kwargs: Any) -> None:
        super().__init__(
            name="float8", dtype="float32", trainable=False, **kwargs
        )
        self.variable: Any = None
        self.after_load: Callable[[], None] | None = None
        self.recipe = recipe

    def build(self, input_shape: Any = None) -> None:
        """Creates the variable."""
        with keras.name_scope(self.name, caller=self):
            self.variable = keras.Variable(
                "zeros",
                shape=observations.SHAPE,
                dtype="float32",
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
                synchronization="on_read",
                name="amax",
            )

    @property
    def weights(self) -> list[keras.Variable]:
        """None: it is no weight of the model."""
        return []

    @property
    def recipe(self) -> Any:
        """What the contraction uses, None while it is not in FP8."""
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: recipes.Recipe | None) -> None:
        self._recipe = recipe
        if recipe is not None:
            self._window = recipe.window

    @property
    def fade(self) -> float:
        """What is left of an assumption after a pass, without a window.

        (n - 1) / (n + 1)     for a window of n steps

        While the layer is not in FP8, as it was before: state that waits is
        saved, and comes back, as if it had not.
        """
        found: float = (self._window - 1) / (self._window + 1)
        return found

    @property
    def amax(self) -> tf.Tensor:
        """What the next pass assumes, float32 `[3]`; zero: not observed."""
        state = tf.convert_to_tensor(self.variable)
        return observations.assumed(state, self.fade)

    def assume(self, amax: Any) -> None:
        """Has the next pass assume an amax, and forgets what was seen."""
        amax = tf.cast(tf.convert_to_tensor(amax), tf.float32)
        self.variable.assign(observations.settled(amax))

    def begin_pass(self) -> observations.Pass:
        """Begins a training pass through the contraction."""
        return observations.begin(self.variable, self.fade)

    def belongs_to(self, variables: Iterable[keras.Variable]) -> None:
        """Has `states_of` find the state by the contraction's variables."""
        for variable in variables:
            variable.float8_state = self

    def leave(self, variables: Iterable[keras.Variable]) -> None:
        """Undoes `belongs_to`: the contraction has left FP8 for good."""
        self.recipe = None
        for variable in variables:
            if getattr(variable, "float8_state", None) is self:
                del variable.float8_state

    def save_own_variables(self, store: Any) -> None:
        """Saves what the next pass assumes."""
        store["0"] = self.amax.numpy()

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: its contraction is what Keras quantizes."""

    def load_own_variables(self, store: Any) -> None:
        """Loads it; what a file lacks, or has not finite, is not observed."""
        saved = store["0"] if "0" in store.keys() else np.zeros(3)
        value = np.asarray(saved, np.float32)
        self.assume(np.where(np.isfinite(value), value, 0.0))
        if (waiting := self.after_load) is not None:
            self.after_load = None
            waiting()


def states_of(
    variables: Iterable[Any], idle: bool = False
) -> list[Float8State]:
    """Returns the FP8 state of each contraction that variables belong to.

    One that is idle, as its layer has left FP8, is left out unless asked for.
    """
    found = (getattr(v, "float8_state", None) for v in variables)
    states = {id(state): state for state in found if state is not None}
    return [s for s in states.values() if idle or s.recipe is not None]


def all_states(model: keras.Layer, idle: bool = False) -> list[Float8State]:
    """Returns the FP8 state of each contraction in a model."""
    return states_of(model.weights, idle)
