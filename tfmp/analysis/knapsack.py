"""One option for each layer, the best under bounds: solved exactly.

    minimise    sum over layers i, options j of  objective[i, j] * x[i, j]
    such that   sum over j of x[i, j] == 1                    for each layer
                sum over i, j of cost[i, j] * x[i, j] <= bound   for each bound
                x[i, j] is 0 or 1

the knapsack problem with a group of items for each layer, by HiGHS' branch and
cut (`scipy.optimize.milp`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmp.analysis.libraries import library

Option = Mapping[str, float]
TOLERANCE = 2e-6  # more than HiGHS keeps a bound of 1 by
ATTEMPTS = 8  # at solutions that are beyond a bound by less than that
LARGEST = 1e4  # of the objective, for which HiGHS stops at a gap of 1e-6


def solve(
    options: Sequence[Sequence[Option]],
    objective: str,
    bounds: Mapping[str, float],
) -> list[int] | None:
    """Returns which option each layer gets, None if no choice is in bounds.

    Args:
        options: of each layer, one or more, each with its costs by name; none
            is negative.
        objective: the cost to make least.
        bounds: the most that the sum of a cost may be.
    """
    beyond: list[list[int]] = []
    while len(beyond) < ATTEMPTS:
        found = _solve(options, objective, bounds, beyond)
        if found is None or within(options, found, bounds):
            return found
        beyond.append(found)
    tightened = {k: bound * (1 - TOLERANCE) for k, bound in bounds.items()}
    return _solve(options, objective, tightened, beyond)


def total(
    options: Sequence[Sequence[Option]], chosen: Sequence[int], name: str
) -> float:
    """Returns the sum of a cost over the options that are chosen."""
    pairs = zip(options, chosen, strict=True)
    return float(sum(own[place][name] for own, place in pairs))


def within(
    options: Sequence[Sequence[Option]],
    chosen: Sequence[int],
    bounds: Mapping[str, float],
) -> bool:
    """Whether a choice keeps all bounds; rounding of sums is forgiven."""
    return all(
        total(options, chosen, name) <= bound * (1 + 1e-12)
        for name, bound in bounds.items()
    )


def _solve(
    options: Sequence[Sequence[Option]],
    objective: str,
    bounds: Mapping[str, float],
    beyond: Sequence[Sequence[int]],
) -> list[int] | None:
    """Returns the solver's answer, other than those known to be beyond."""
    optimize = library("scipy.optimize")
    counts = [len(own) for own in options]
    first = np.repeat(np.eye(len(options)), counts, axis=1)
    constraints = [optimize.LinearConstraint(first, 1, 1)]
    for name, bound in bounds.items():
        costs, bound = _scaled(_column(options, name), bound)
        constraints.append(optimize.LinearConstraint(costs, -np.inf, bound))
    starts = np.cumsum(counts) - counts
    for known in beyond:
        taken = np.zeros(sum(counts))
        taken[starts + known] = 1
        most = len(options) - 1
        constraints.append(optimize.LinearConstraint(taken, -np.inf, most))
    aim, _ = _scaled(_column(options, objective), 0.0)
    result = optimize.milp(
        LARGEST * aim,
        integrality=np.ones(sum(counts)),
        bounds=optimize.Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    parts = np.split(result.x, np.cumsum(counts)[:-1])
    return [int(np.argmax(part)) for part in parts]


def _column(options: Sequence[Sequence[Option]], name: str) -> np.ndarray:
    return np.array([each[name] for own in options for each in own])


def _scaled(costs: np.ndarray, bound: float) -> tuple[Any, float]:
    """Brings numbers to about 1, where the solver's tolerances are small."""
    unit = bound or float(costs.max(initial=0.0)) or 1.0
    return costs / unit, bound / unit
