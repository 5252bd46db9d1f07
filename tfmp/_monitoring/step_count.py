"""How far a training is, as a callback sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


class StepCount:
    """Counts steps over epochs, and says when a sample is due.

    Steps go on from one `fit` to the next, and from where a restored
    optimizer stands.

    Args:
        every: steps between two samples.

    Attributes:
        step: training steps done.
        epoch: the epoch, from 0.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self.step = 0
        self.epoch = 0
        self._start = 0
        self._first_batch: int | None = None
        self._batches: int | None = None
        self._was_due = self._was_first = False

    def get_state(self) -> dict[str, Any]:
        """Returns where it is, as JSON-serialisable values."""
        known = dict(vars(self))
        del known["_every"]
        return known

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was asked for."""
        vars(self).update(state)

    @property
    def in_epoch(self) -> bool:
        """Whether a step of the epoch is done."""
        return self.step != self._start

    def begin_epoch(
        self, epoch: int, optimizer: object, batches: int | None
    ) -> None:
        """Starts counting where the last epoch, or the optimizer, is.

        Args:
            epoch: its number.
            optimizer: of the model.
            batches: in the epoch; None if that is unknown.
        """
        self.step = max(self.step, steps_taken(optimizer))
        self.epoch, self._start = epoch, self.step
        self._first_batch, self._batches = None, batches

    def begin_execution(self, batch: int, batches: int) -> bool:
        """Says whether the execution is one to measure.

        It is if a sample will be due after it.  In place of the last one of
        an epoch it is the last but one, as the last batch is often smaller,
        unless that has had a sample of its own.
        An epoch that was resumed within does not begin at batch 0.
        The very first step is none: it may still build layers, and a
        `tf.function` of one's own keeps what it was first traced with.

        Args:
            batch: the first of the execution.
            batches: of one execution.
        """
        if self._first_batch is None:
            self._first_batch = batch
        was_first, self._was_first = self._was_first, self.step == 0
        if self._was_first:
            return False
        last = batch + batches - 1
        if self._batches is None:
            return self._is_due(last)
        left = self._batches - last - 1
        if left <= 0:
            alone = was_first or not self.in_epoch
            return alone or (self._was_due and self._is_due(last))
        return self._is_due(last) or left <= batches

    def end_execution(self, batch: int) -> bool:
        """Counts, and says whether a multiple of `every` was passed.

        Args:
            batch: the last of the execution.
        """
        self._was_due = self._is_due(batch)
        self.step = self._after(batch)
        return self._was_due

    def _after(self, batch: int) -> int:
        batches = self._batches or batch + 1
        done = min(batch + 1, batches) - (self._first_batch or 0)
        return self._start + done

    def _is_due(self, batch: int) -> bool:
        after = self._after(batch)
        return self.step // self._every < after // self._every


def steps_taken(optimizer: object) -> int:
    """Returns how many training steps an optimizer has seen, at the least.

        steps = iterations * gradient_accumulation_steps + skipped_steps

    It is less than the truth within an accumulation, and for an optimizer
    that skips steps without counting them.  0 if it has no `iterations`.
    """
    iterations = getattr(optimizer, "iterations", None)
    if iterations is None:
        return 0
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    accumulated = getattr(inner, "gradient_accumulation_steps", None) or 1
    skipped = getattr(optimizer, "skipped_steps", None)
    steps = int(keras.ops.convert_to_numpy(iterations)) * accumulated
    if skipped is None:
        return steps
    return steps + int(keras.ops.convert_to_numpy(skipped))
