"""The changes of precision that other callbacks make, each told once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tfmp._support.changes import Change
from tfmp.callbacks.adaptive_precision import AdaptivePrecision
from tfmp.callbacks.precision_scheduler import PrecisionScheduler


class NewChanges:
    """Looks for changes that were made since the last look.

    Args:
        callbacks: of one `fit`, in their order.

    Attributes:
        told: how many changes of each that makes them were told.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        kinds = AdaptivePrecision, PrecisionScheduler
        self._callbacks = [c for c in callbacks if isinstance(c, kinds)]
        self.told = [len(each.changes) for each in self._callbacks]

    def take(self) -> tuple[Change, ...]:
        """Returns the new ones in the order of their steps."""
        new = [
            change
            for each, told in zip(self._callbacks, self.told, strict=True)
            for change in each.changes[told:]
        ]
        self.told = [len(each.changes) for each in self._callbacks]
        return tuple(sorted(new, key=lambda change: change.step))

    def set_state(self, told: Sequence[int]) -> None:
        """Tells again what was told later than `told`; of others, nothing."""
        if len(told) == len(self.told):
            self.told = list(told)
