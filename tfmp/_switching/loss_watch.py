"""When a loss has left the course of the training; no TensorFlow."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from typing import NamedTuple

from tfmp._support import checks

LEAST = 8  # losses before a bound can be said
NORMAL = 1.4826  # standard deviations of a normal one, in absolute deviations
FLOOR = 0.05  # of the median: a loss that hardly moves is no reason to jump


@dataclasses.dataclass(frozen=True)
class Rollback:
    """When a training goes back to an earlier state, and how far.

        loss > median + spike * max(1.4826 * MAD, 0.05 * abs(median))

    twice in a row, over the last `window` losses; or a loss is not finite.

    Args:
        spike: how far a loss may be off, in standard deviations of a normal
            one, 1 or more.
        window: losses to look back on, 8 or more.
        keep_every: steps between two states that are kept, 1 or more.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if it is out of its range.

    >>> Rollback(keep_every=1000)
    Rollback(spike=10.0, window=64, keep_every=1000)
    """

    spike: float = 10.0
    window: int = 64
    keep_every: int = 256

    def __post_init__(self) -> None:
        checks.number("spike", self.spike, 1.0, 1e6)
        checks.integer("window", self.window, LEAST)
        checks.integer("keep_every", self.keep_every, 1)


class LossState(NamedTuple):
    """What a `LossWatch` knows at one moment.

    Attributes:
        losses: in the window.
        seen: batches that the epoch's mean is of.
        mean: the epoch's mean.
        last: the last loss.
        above: losses above the bound up to the last.
    """

    losses: tuple[float, ...]
    seen: int
    mean: float
    last: float
    above: int


class LossWatch:
    """Holds each loss against the ones before it.

        bound = median + spike * max(1.4826 * MAD, 0.05 * abs(median))

    over the last `window` losses that were below their own bound, where MAD
    is the median of `abs(loss - median)`.  Median and MAD hardly notice a few
    outliers, unlike mean and deviation (Huber, Robust Statistics, section
    1.2).  A loss is trouble if it is not finite, or if it and `patience - 1`
    before it were above the bound.

    Keras tells callbacks the mean over the epoch so far, `m`.  The loss since
    the last look, `k` batches after `n` of them, is

        loss = ((n + k) * m_now - n * m_before) / k

    Args:
        spike: in standard deviations of a normal loss.
        window: losses to look back on.
        patience: losses in a row.
    """

    def __init__(self, spike: float, window: int, patience: int = 2) -> None:
        self._spike, self._patience = spike, patience
        self._losses: collections.deque[float] = collections.deque(
            maxlen=window
        )
        self._above, self._loss = 0, 0.0
        self._seen, self._mean = 0, 0.0

    @property
    def is_calm(self) -> bool:
        """Whether the last loss was where it should be."""
        return self._above == 0

    @property
    def bound(self) -> float:
        """What a loss may be; infinite as long as too few are known."""
        if len(self._losses) < LEAST:
            return math.inf
        median = statistics.median(self._losses)
        spread = statistics.median(abs(x - median) for x in self._losses)
        usual = max(NORMAL * spread, FLOOR * abs(median))
        return median + self._spike * usual

    def begin_epoch(self) -> None:
        """Keras starts a new mean."""
        self._seen, self._mean = 0, 0.0

    @property
    def is_finite(self) -> bool:
        """Whether the last loss was."""
        return math.isfinite(self._loss)

    def get_state(self) -> LossState:
        """Returns what `go_back` and `set_state` take."""
        losses = tuple(self._losses)
        return LossState(
            losses, self._seen, self._mean, self._loss, self._above
        )

    def set_state(self, state: LossState) -> None:
        """Takes over what was known when `state` was asked for."""
        self.go_back(state, to_epoch=True)
        self._loss, self._above = state.last, state.above

    def go_back(self, state: LossState, to_epoch: bool) -> None:
        """Follows a training that goes back.

        Args:
            state: of the moment it goes back to.
            to_epoch: whether the metrics are those of that moment too, and
                not started anew.
        """
        self._losses.clear()
        self._losses.extend(state.losses)
        self._above, self._loss = 0, 0.0
        self.begin_epoch()
        if to_epoch:
            self._seen, self._mean = state.seen, state.mean

    def look(self, mean: float, batches: int) -> str:
        """Returns what is wrong in words, "" if nothing is.

        Args:
            mean: that Keras tells.
            batches: since the last look.
        """
        seen = self._seen + batches
        loss = (seen * mean - self._seen * self._mean) / batches
        self._seen, self._mean, self._loss = seen, mean, loss
        if not math.isfinite(loss):
            self._above += 1
            return "the loss is not finite"
        bound = self.bound
        if loss <= bound:
            self._above = 0
            self._losses.append(loss)
            return ""
        self._above += 1
        if self._above < self._patience:
            return ""
        return f"the loss is {loss:.4g}, above its bound of {bound:.4g}"
