"""How far two analyses of one model agree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tfmp._support import checks, tables
from tfmp.analysis.effects import Effect, Sensitivity
from tfmp.analysis.reals import real
from tfmp.analysis.variants import ROLES, WHOLE

MEASURES = (
    *("loss_rms", "loss_change", "output_error"),
    *("gradient_error", "gradient_cosine"),
)
SEEN = (float | int, "a list of numbers")
FEWEST = 3  # rows that have a rank correlation


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How alike two analyses rank the same layers and candidates.

    Attributes:
        role: whose rows were compared.
        rows: how many both have.
        spearman: rank correlation, from -1 to 1, by the name of the number;
            NaN where all are equal.
        ratio: the first's `loss_rms` over the second's, geometric mean.
        seconds: that each took.

    >>> print(Agreement("layer", 3, {"loss_rms": 0.9}, 1.0, (1.0, 60.0)))
    rank correlation of 3 rows (layer)
    loss_rms  0.900
    loss_rms of the first over the second: 1.00; in 1.0 s and 60.0 s
    """

    role: str
    rows: int
    spearman: dict[str, float]
    ratio: float
    seconds: tuple[float, float]

    def __post_init__(self) -> None:
        checks.choice("role", self.role, ROLES)
        checks.integer("rows", self.rows, 0)
        checks.fields(self, spearman=dict)
        for name, value in self.spearman.items():
            checks.instance("spearman", name, str, "a dictionary by name")
            real("spearman", value)
        real("ratio", self.ratio)
        said = "a tuple of two numbers"
        checks.sequence("seconds", self.seconds, float | int, said)
        if len(self.seconds) != 2:
            raise ValueError(
                f"`seconds` must be {said}. Received: {self.seconds!r}"
            )
        for value in self.seconds:
            real("seconds", value)

    def __str__(self) -> str:
        cells = [
            (name, f"{value:.3f}") for name, value in self.spearman.items()
        ]
        first, second = self.seconds
        return "\n".join(
            [
                f"rank correlation of {self.rows} rows ({self.role})",
                *tables.lines(cells),
                f"loss_rms of the first over the second: {self.ratio:.2f}; "
                f"in {first:.1f} s and {second:.1f} s",
            ]
        )


def compare(
    first: Sensitivity, second: Sensitivity, role: str = WHOLE
) -> Agreement:
    """Says how far an estimate agrees with a measurement, or with another one.

    Args:
        first: of a model.
        second: of the same model.
        role: whose rows to compare.

    Returns:
        An `Agreement`.

    Raises:
        TypeError: if one is no `Sensitivity`.
        ValueError: if they have less than three rows in common, or `role` is
            unknown.

    >>> rows = tuple(Effect("a", "layer", x, 20.0, 0.1, 0.1, 0.99, 0.0, rms)
    ...              for x, rms in [("x", 0.1), ("y", 0.2), ("z", 0.3)])
    >>> one = Sensitivity("measure", rows, "float32", 2.0, 64)
    >>> compare(one, one).spearman["loss_rms"]
    1.0
    """
    said = "a tfmp.analysis.Sensitivity"
    checks.instance("first", first, Sensitivity, said)
    checks.instance("second", second, Sensitivity, said)
    left, right = _rows(first, role), _rows(second, role)
    both = [key for key in left if key in right]
    if len(both) < FEWEST:
        raise ValueError(
            f"`first` and `second` must have {FEWEST} rows or more of the same "
            f"layers and candidates. Received: {len(both)}, role={role!r}"
        )
    found = {
        name: spearman(
            [getattr(left[key], name) for key in both],
            [getattr(right[key], name) for key in both],
        )
        for name in MEASURES
    }
    ratio = _ratio([(left[k].loss_rms, right[k].loss_rms) for k in both])
    seconds = (first.seconds, second.seconds)
    return Agreement(role, len(both), found, ratio, seconds)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns the rank correlation of two lists, equal values sharing a rank.

    Args:
        first: numbers; pairs with a NaN are left out.
        second: as many.

    Returns:
        From -1 to 1; NaN if all of one list are equal.

    Raises:
        TypeError: if one is no list of numbers.
        ValueError: if they have not one length.

    >>> spearman([1.0, 2.0, 3.0], [1.0, 4.0, 9.0])
    1.0
    """
    a = [real("first", v) for v in checks.sequence("first", first, *SEEN)]
    b = [real("second", v) for v in checks.sequence("second", second, *SEEN)]
    if len(a) != len(b):
        raise ValueError(
            f"`second` must be of the length of `first`, {len(a)}. "
            f"Received: {len(b)} numbers"
        )
    pairs = np.array(
        [p for p in zip(a, b, strict=True) if not np.isnan(p).any()]
    )
    if len(pairs) < 2:
        return math.nan
    ranks = [_ranks(column) for column in pairs.T.astype(np.float64)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return math.nan
    return round(float(np.corrcoef(np.stack(ranks))[0, 1]), 12)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(
        values, return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def _rows(found: Sensitivity, role: str) -> dict[tuple[str, str], Effect]:
    return {(row.layer, row.candidate): row for row in found.only(role)}


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    logs = [math.log(a / b) for a, b in pairs if a > 0 and b > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
