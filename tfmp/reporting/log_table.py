"""What the lines of a log add up to: columns over the samples."""

from __future__ import annotations

import array
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfmp._support.changes import Change

ONLY_CHANGES = {"step", "epoch", "time", "changes"}


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How often each exponent of a scaled tensor was seen.

    Attributes:
        step: of the sample.
        first: the exponent of the first count.
        counts: of consecutive exponents.
    """

    step: int
    first: int
    counts: tuple[float, ...]


class Table:
    """Columns that grow with each sample."""

    def __init__(self) -> None:
        self.steps = array.array("q")
        self.seconds = array.array("d")
        self.histograms: dict[str, Histogram] = {}
        self.said: list[tuple[int, str]] = []
        self.changes: list[tuple[int, Change]] = []
        self.replaced = 0
        self._columns: dict[str, array.array[float]] = {}

    def add(self, sample: dict[str, Any]) -> None:
        """Takes in a sample, in place of any from its step on.

        One with nothing but changes belongs to the sample before.
        """
        if not (self.steps and _has_changes_alone(sample)):
            self._go_back_to(sample["step"])
            self._append(sample)
        for given in _listed(sample.get("changes")):
            if change := _change(given):
                self.changes.append((sample["step"], change))

    def _append(self, sample: dict[str, Any]) -> None:
        rows = len(self.steps)
        self.steps.append(sample["step"])
        time = sample["time"]
        self.seconds.append(math.nan if not _is_number(time) else time)
        for key, value in _scalars(sample):
            column = self._columns.setdefault(key, array.array("d"))
            column.extend([math.nan] * (rows - len(column)))
            column.append(value)
        for text in _listed(sample.get("findings")):
            self.said.append((sample["step"], str(text)))
        found = sample.get("histograms")
        for tensor, histogram in _items(found):
            if _is_histogram(histogram):
                first, counts = histogram
                self.histograms[tensor] = Histogram(
                    sample["step"], first, tuple(map(float, counts))
                )

    def _go_back_to(self, step: int) -> None:
        if not self.steps or self.steps[-1] < step:
            return
        while self.steps and self.steps[-1] >= step:
            self.replaced += self.steps.pop() > step
            self.seconds.pop()
        for column in self._columns.values():
            del column[len(self.steps) :]
        self.said = [each for each in self.said if each[0] < step]
        self.changes = [each for each in self.changes if each[0] < step]

    def series(self) -> dict[str, np.ndarray]:
        """Returns the columns, all of one length."""
        found = {}
        for key, column in self._columns.items():
            found[key] = np.full(len(self.steps), np.nan)
            found[key][: len(column)] = column
        return found


def _scalars(sample: dict[str, Any]) -> Iterator[tuple[str, float]]:
    logs = {f"logs/{key}": v for key, v in _items(sample.get("logs"))}
    for key, value in [*sample.items(), *logs.items()]:
        if key in ("step", "epoch", "time"):
            continue
        if value is None:
            yield key, math.inf  # as JSON has what is not finite
        elif _is_number(value):
            yield key, float(value)


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _has_changes_alone(sample: dict[str, Any]) -> bool:
    return "changes" in sample and sample.keys() <= ONLY_CHANGES


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _change(value: Any) -> Change | None:
    """Returns a change of precision, None for what is none."""
    try:
        return Change(**value)
    except (TypeError, ValueError):
        return None


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return isinstance(value, float) or abs(value) < 2**1000


def _is_histogram(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2
    if not pair or not isinstance(value[0], int) or abs(value[0]) > 2**15:
        return False
    counts = value[1]
    return isinstance(counts, list) and all(
        _is_number(count) and 0 <= count < math.inf for count in counts
    )
