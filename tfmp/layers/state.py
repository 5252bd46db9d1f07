"""The FP8 state of a contraction: one small variable, in a layer of its own."""

from __future__ import annotations

from typing import Any

import keras

from tfmp import recipes


def is_amax(variable: Any) -> bool:
    """Whether a variable is the FP8 state of a tfmp layer."""
    return isinstance(getattr(variable, "recipe", None), recipes.Recipe)


@keras.saving.register_keras_serializable("tfmp")
class Float8State(keras.layers.Layer):
    """Holds `amax`, float32 of shape `[3]`, for inputs, kernel and grads.

    It is zero until a step has observed it; its gradient is the amax observed
    in the step, and the optimizer writes it back.

    A contraction keeps it in a sublayer so that its own variables, and its
    part of a weights file, are those of the Keras layer: either loads the
    other's file, and state that a file lacks counts as not observed.

    Args:
        recipe: what the contraction uses; `amax.recipe` tells the optimizer.
        **kwargs: those of `keras.layers.Layer`.
    """

    def __init__(self, recipe: recipes.Recipe, **kwargs: Any) -> None:
        super().__init__(name="float8", dtype="float32", **kwargs)
        self.amax: Any = None
        self.recipe: recipes.Recipe | None = recipe

    def build(self, input_shape: Any = None) -> None:
        """Creates the variable."""
        self.amax = self.add_weight(
            name="amax",
            shape=(len(recipes.ROLES),),
            dtype="float32",
            initializer="zeros",
            autocast=False,
            overwrite_with_gradient=True,
            aggregation="only_first_replica",
        )
        self.use(self.recipe, self.trainable)

    def use(self, recipe: recipes.Recipe | None, trainable: bool) -> None:
        """Changes the recipe, which the optimizer reads off the variable.

        Args:
            recipe: None if the contraction leaves FP8 for now.
            trainable: whether the contraction is.
        """
        self.recipe = recipe
        self.amax.recipe = recipe
        self.trainable = trainable and recipe is not None

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: its contraction is what Keras quantizes."""

    def load_own_variables(self, store: Any) -> None:
        """Loads `amax`; a file of a plain layer has observed nothing."""
        value = store["0"] if "0" in store.keys() else [0.0, 0.0, 0.0]
        self.amax.assign(value)
