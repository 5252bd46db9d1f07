"""Counts what a model's `train_function` runs, for its optimizer."""

from __future__ import annotations

import functools
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


def install() -> None:
    """Has every `train_function` that Keras makes looked at, if it is ours."""
    name = "make_train_function"
    owner: Any = next(c for c in keras.Model.__mro__ if name in vars(c))
    stock = owner.make_train_function

    @functools.wraps(stock)
    def make_train_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Makes it as Keras does, and looks at it."""
        before = self.train_function
        stock(self, *args, **kwargs)
        if isinstance(self.optimizer, LossScaleOptimizer):
            if self.train_function is not before:
                self.train_function = Execution(self).run
        return self.train_function

    owner.make_train_function = make_train_function
