"""Which tensors FP8 serves worst: one number each, its badness.

The badness of a tensor is the largest of these; from 1 on it is worth a look:

    share of values flushed to zero / 5 %
    share of values clipped / 0.1 %
    10 ** ((20 dB - SQNR) / 20)      the noise against that of 20 dB

Each measure is its mean over the later half of the samples, so that a first
scale that does not fit is forgiven; the lag, which only says why, is what a
tenth of them exceed.
20 dB is what torchao's tests ask of an FP8 product.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from tfmp.reporting.logs import Run

LIMITS = {
    "underflow_share": 0.05,
    "saturation_share": 0.001,
    "sqnr": 20.0,
}


@dataclasses.dataclass(frozen=True)
class Standing:
    """How one tensor does.

    Attributes:
        tensor: `<layer path>/<role>`.
        format: its FP8 format.
        badness: see above; NaN if the log has no statistics of it.
        because: the measure that decides, empty if none is there.
        measures: what was taken of each measure; NaN without values.
        amax: the newest.
        scale: the newest; NaN without delayed scaling.
    """

    tensor: str
    format: str
    badness: float
    because: str
    measures: dict[str, float]
    amax: float
    scale: float

    @property
    def is_bad(self) -> bool:
        """Whether it is worth a look."""
        return self.badness >= 1

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serialisable values."""
        plain = {**vars(self), **self.measures}
        del plain["measures"]
        return {name: _finite(value) for name, value in plain.items()}


def badness(measure: str, value: float) -> float:
    """Returns how many times over its limit a measure is, NaN for NaN."""
    if measure == "sqnr":
        return float(10 ** ((LIMITS["sqnr"] - value) / 20))
    return max(0.0, value / LIMITS[measure]) if value == value else math.nan


def rank(run: Run) -> list[Standing]:
    """Returns all tensors of a run, the worst first, the unknown ones last."""
    found = [_standing(run, tensor) for tensor in run.tensors]
    known = [each for each in found if each.because]
    unknown = [each for each in found if not each.because]
    return sorted(known, key=lambda each: -each.badness) + unknown


def _standing(run: Run, tensor: str) -> Standing:
    measures = {
        name: typical(name, run.values(f"{tensor}/{name}"))
        for name in (*LIMITS, "lag", "range_share")
    }
    scores = {
        name: badness(name, measures[name])
        for name in LIMITS
        if not math.isnan(measures[name])
    }
    because = max(scores, key=lambda name: scores[name], default="")
    return Standing(
        tensor,
        run.format(tensor),
        scores.get(because, math.nan),
        because,
        measures,
        run.last(f"{tensor}/amax"),
        run.last(f"{tensor}/scale"),
    )


def typical(measure: str, values: np.ndarray) -> float:
    """Returns one number for a measure, of the later half of its values."""
    known = values[np.isfinite(values)]
    late = known[len(known) // 2 :]
    if not len(late):
        return math.nan
    return float(np.quantile(late, 0.9) if measure == "lag" else late.mean())


def _finite(value: Any) -> Any:
    is_lost = isinstance(value, float) and not math.isfinite(value)
    return None if is_lost else value
