"""What can be chosen for each layer, what it costs, and the best choices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tfmp.analysis import costs, knapsack, rules
from tfmp.analysis.candidates import Candidate
from tfmp.analysis.effects import Effect, Sensitivity
from tfmp.analysis.points import LIMITS, Point
from tfmp.analysis.subjects import Subject

Costs = dict[str, float]
TIE = 1e-9  # relative: what counts as equally good
STEPS = 24  # bounds on time that the frontier is asked for


@dataclasses.dataclass(frozen=True)
class Problem:
    """The options of each layer, with their costs.

    Attributes:
        subjects: the layers that can be chosen for.
        candidates: the precisions, whether or not a layer takes them.
        options: of each layer, by name of candidate, its costs by `LIMITS`.
    """

    subjects: tuple[Subject, ...]
    candidates: tuple[Candidate, ...]
    options: tuple[Mapping[str, Costs], ...]

    def point(self, name: str, choice: Mapping[str, str]) -> Point:
        """Returns a choice with what it costs."""
        rows = [
            own[choice[subject.path]]
            for subject, own in zip(self.subjects, self.options, strict=True)
        ]
        sums = {
            limit: math.fsum(row[limit] for row in rows) for limit in LIMITS
        }
        return Point(name, dict(choice), **sums)

    def solve(self, name: str, aim: str, bounds: Mapping[str, float]) -> Any:
        """Returns the best choice within bounds, None if there is none.

        Of several that are as good, it is the one with the least of the other
        of time and loss.
        """
        first = self._solve(name, aim, bounds)
        if first is None:
            return None
        value = getattr(first, aim) * (1 + TIE)
        most = min(value, bounds.get(aim, math.inf))
        other = "loss_increase" if aim == "time" else "time"
        return self._solve(name, other, {**bounds, aim: most}) or first

    def _solve(
        self, name: str, aim: str, bounds: Mapping[str, float]
    ) -> Point | None:
        kept = [k for k, v in bounds.items() if math.isfinite(v)]
        table = [list(own.values()) for own in self.options]
        found = knapsack.solve(table, aim, {k: bounds[k] for k in kept})
        if found is None:
            return None
        names = [list(own) for own in self.options]
        places = zip(self.subjects, names, found, strict=True)
        return self.point(name, {s.path: own[i] for s, own, i in places})

    def frontier(self) -> tuple[Point, ...]:
        """Returns the most accurate choice for each of some times."""
        fastest = self.solve("", "time", {})
        best = self.solve("", "loss_increase", {})
        found = [fastest]
        for time in np.linspace(fastest.time, best.time, STEPS)[1:-1]:
            found.append(self.solve("", "loss_increase", {"time": float(time)}))
        found = [point for point in found if point is not None]
        return tuple(_named(_not_dominated([*found, best])))

    def baselines(self) -> Iterator[Point]:
        """Yields what people choose without measuring."""
        low = [c for c in self.candidates if c.recipe is not None]
        plain = [c for c in self.candidates if c.recipe is None]
        half = [c for c in plain if c.dtype in ("bfloat16", "float16")]
        if half:
            every = rules.uniform(half[0], half[0], self.subjects)
            yield from self._known(f"all {half[0].name}", every)
        if low and half:
            every = rules.uniform(low[0], half[0], self.subjects)
            yield from self._known(f"all {low[0].name}", every)
            some = rules.by_shape(low[0], half[0], self.subjects)
            yield from self._known("torchao's rule", some)

    def _known(self, name: str, choice: Mapping[str, str]) -> Iterator[Point]:
        pairs = zip(self.subjects, self.options, strict=True)
        if all(choice[subject.path] in own for subject, own in pairs):
            yield self.point(name, choice)


def build(
    found: tuple[Subject, ...],
    candidates: tuple[Candidate, ...],
    sensitivity: Sensitivity,
    seconds: Callable[[Subject, Candidate], float],
    min_cosine: float,
) -> Problem:
    """Returns what can be chosen.

    Args:
        found: the layers.
        candidates: the precisions.
        sensitivity: of these.
        seconds: tells the time of a layer in a precision.
        min_cosine: the least cosine of gradients of an option.
    """
    rows = {(row.layer, row.candidate): row for row in sensitivity.only()}
    options = []
    for subject in found:
        own = {}
        for candidate in candidates:
            row = rows.get((subject.path, candidate.name))
            if row is not None and _is_usable(row, min_cosine):
                increase = sensitivity.expected_increase(row)
                own[candidate.name] = {
                    "loss_increase": sensitivity.percent(increase),
                    "time": seconds(subject, candidate),
                    "memory": costs.memory(subject, candidate),
                }
        options.append(own)
    pairs = [(s, own) for s, own in zip(found, options, strict=True) if own]
    subjects, kept = zip(*pairs, strict=True) if pairs else ((), ())
    return Problem(tuple(subjects), candidates, tuple(kept))


def _is_usable(row: Effect, min_cosine: float) -> bool:
    turned = row.gradient_cosine < min_cosine  # False if it is not known
    return math.isfinite(row.loss_rms) and not turned


def _not_dominated(found: list[Point]) -> list[Point]:
    kept: list[Point] = []
    for point in sorted(found, key=lambda p: (p.time, p.loss_increase)):
        if not kept or point.loss_increase < kept[-1].loss_increase:
            kept.append(point)
    return kept


def _named(found: list[Point]) -> Iterator[Point]:
    for number, point in enumerate(found):
        yield dataclasses.replace(point, name=f"frontier {number + 1}")
