"""The states that a training can go back to."""

from __future__ import annotations

from typing import NamedTuple

import keras

from tfmp._switching.loss_watch import LossState, LossWatch
from tfmp._switching.snapshot import Snapshot


class Moment(NamedTuple):
    """A state of a training, and where that was.

    Attributes:
        snapshot: of the model.
        step: training steps done.
        epoch: from 0.
        loss: what was known of the loss.
    """

    snapshot: Snapshot
    step: int
    epoch: int
    loss: LossState


class GoodStates:
    """Keeps two states: a new one is good once no trouble came after it.

    What harms a training may be a while old when the loss shows it.  So the
    state to go back to is the one before the newest: when that was taken, all
    was well, and since then no trouble came until the newest was.

    Args:
        model: that is trained.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._newest: Moment | None = None
        self._good: Moment | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to go back to."""
        return self._good is None

    def keep(self, step: int, epoch: int, loss: LossWatch) -> None:
        """Takes the present state, while all is well."""
        snapshot = Snapshot(self._model, epoch)
        newest = Moment(snapshot, step, epoch, loss.get_state())
        self._good, self._newest = self._newest or newest, newest

    def go_back(self, epoch: int, loss: LossWatch) -> Moment | None:
        """Brings model and loss to the good state, and returns which it was.

        Args:
            epoch: of the present.
            loss: that goes back too.
        """
        good = self._good
        if good is not None:
            good.snapshot.restore(epoch)
            loss.go_back(good.loss, to_epoch=good.epoch == epoch)
            self._newest = good
        return good
