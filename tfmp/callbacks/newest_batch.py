"""Keeps the batch that a model trains on, from one step to the next."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import keras

from tfmp._monitoring.train_functions import standing


class NewestBatch:
    """Stands before a model's `train_function` and remembers its batches.

    Keras runs a Python iterator batch by batch, by the function that it has
    compiled for a step.  Under `jit_compile` XLA compiles it once more, as it
    was part of a larger program before.

    Invariant: only an execution that was announced is watched.  Another
    `fit`, after one that an error ended, finds the model as Keras left it.

    Args:
        model: within `fit`, with an optimizer that scales the loss.

    Attributes:
        batch: the newest of the last execution that was announced, None if
            another function ran it.
        loss_scale: what the loss of this batch was multiplied by.
        inner: the function that it stands before.
    """

    def __init__(self, model: keras.Model) -> None:
        self.batch: Any = None
        self.loss_scale = 1.0
        self._model = model
        self.inner = model.train_function
        self._announced = False
        model.train_function = self._dispatch

    def announce(self) -> None:
        """Says that the next execution is to be watched.

        A model that was changed since has another function, to stand before.
        """
        self._announced, self.batch = True, None
        if self not in standing(self._model.train_function):
            self.inner = self._model.train_function
            self._model.train_function = self._dispatch

    def remove(self) -> None:
        """Gives the model its function back."""
        if self._model.train_function == self._dispatch:
            self._model.train_function = self.inner

    def watched(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """Returns the batches of an execution, each remembered when drawn."""
        if not self._announced:
            self.remove()
            return iterator
        self._announced = False
        first = next(iterator)  # Keras has no word for a loop without a step
        return self._remembered(first, iterator)

    def _dispatch(self, iterator: Iterator[Any]) -> Any:
        return self.inner(self.watched(iterator))

    def _remembered(self, first: Any, iterator: Iterator[Any]) -> Iterator[Any]:
        for batch in itertools.chain([first], iterator):
            scale = self._model.optimizer.scale_loss(1.0)
            self.loss_scale = float(keras.ops.convert_to_numpy(scale))
            self.batch = batch
            yield batch
