"""Counts what a model's `train_function` runs, for its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfmp.optimizers.loss_scale import LossScaleOptimizer


class Execution:
    """Stands before a model's `train_function`: one call, one execution.

    Args:
        model: whose function it is.

    Attributes:
        inner: the function, as Keras made it.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.inner: Callable[[Any], Any] = model.train_function

    def run(self, iterator: Any) -> Any:
        """Runs an execution between two looks at the optimizer."""
        model = self._model
        optimizer = model.optimizer
        if not isinstance(optimizer, LossScaleOptimizer):
            return self.inner(iterator)
        skips = optimizer.skips
        skips.execution_begins(optimizer, getattr(model, "history", None))
        results = self.inner(iterator)
        skips.execution_ends(optimizer, model.steps_per_execution)
        return results


class Maker:
    """Makes a model's `train_function`, and stands before each new one.

    Args:
        model: compiled.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._make = model.make_train_function

    def make(self, *args: Any, **kwargs: Any) -> None:
        """Does what the model's `make_train_function` does."""
        before = self._model.train_function
        self._make(*args, **kwargs)
        if self._model.train_function is not before:
            self._model.train_function = Execution(self._model).run


def watch(model: keras.Model) -> None:
    """Has the optimizer of a model look at the executions of `fit`.

    Args:
        model: compiled.  Nothing is changed if its optimizer is not tfmp's.
    """
    there = vars(model).get("make_train_function")
    watched = isinstance(getattr(there, "__self__", None), Maker)
    if isinstance(model.optimizer, LossScaleOptimizer) and not watched:
        vars(model)["make_train_function"] = Maker(model).make
