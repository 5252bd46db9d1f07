"""What a search has found, as a value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tfmp._support import checks, tables
from tfmp.analysis.effects import Sensitivity
from tfmp.analysis.points import Point, read_budget
from tfmp.policies.precision_map import PrecisionMap

TITLES = ("choice", "loss increase", "time", "memory")
UNITS = {"loss_increase": "%", "time": "s", "memory": "bytes"}


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult:
    """What `tfmp.analysis.search` found; printing it gives a table.

    Attributes:
        best: the choice.
        precision_map: the same, for `tfmp.convert` and as a `dtype`.
        frontier: the most accurate choices for some times, the fastest first.
        baselines: what people choose without measuring.
        budget: that was asked for.
        target: what the time is of.
        sensitivity: of each layer and candidate.

    >>> point = Point("chosen", {"net/a": "mixed_float8"}, 0.1, 1e-3, 2048.0)
    >>> found = Sensitivity("estimate", (), "float32", 2.0, 64)
    >>> chosen = PrecisionMap({"net/a": "mixed_float8"}, "mixed_bfloat16")
    >>> print(SearchResult(point, chosen, (point,), (), {"time": 2e-3}, "h200",
    ...                    found))
    choice  loss increase  time      memory
    chosen  1.00e-01 %     1.000 ms  0.002 MiB
    within time <= 0.002 s; time of the products in a training step on h200
    net/a  mixed_float8
    """

    best: Point
    precision_map: PrecisionMap
    frontier: tuple[Point, ...]
    baselines: tuple[Point, ...]
    budget: Mapping[str, float]
    target: str
    sensitivity: Sensitivity

    def __post_init__(self) -> None:
        checks.fields(
            self,
            best=Point,
            precision_map=PrecisionMap,
            budget=Mapping,
            target=str,
            sensitivity=Sensitivity,
        )
        read_budget(self.budget)
        said = "a tuple of tfmp.analysis.Point"
        checks.sequence("frontier", self.frontier, Point, said)
        checks.sequence("baselines", self.baselines, Point, said)

    def __str__(self) -> str:
        cells = [TITLES, *map(_cells, (self.best, *self.baselines))]
        wanted = [
            f"{name} <= {most:.6g} {UNITS.get(name, '')}"
            for name, most in self.budget.items()
        ]
        lines = [
            *tables.lines(cells),
            f"within {', '.join(wanted)}; time of the products in a training "
            f"step on {self.target}",
            *tables.lines(
                [tuple(map(str, x)) for x in self.best.choice.items()]
            ),
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serialisable values."""
        return {
            "best": dataclasses.asdict(self.best),
            "frontier": [dataclasses.asdict(p) for p in self.frontier],
            "baselines": [dataclasses.asdict(p) for p in self.baselines],
            "budget": dict(self.budget),
            "target": self.target,
            "sensitivity": self.sensitivity.to_dict(),
        }

    def to_json(self) -> str:
        """Returns everything as JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def plot(self, path: Any) -> None:
        """Draws the frontier, the choice and the baselines, as a PNG file.

        Args:
            path: of the file.

        Raises:
            ImportError: if matplotlib is missing.
            TypeError, ValueError: if `path` is none.
        """
        # Here, as only who draws has matplotlib.
        from tfmp.analysis import pictures

        pictures.frontier(path, self.frontier, self.baselines, self.best)


def _cells(point: Point) -> tuple[str, ...]:
    return (
        point.name,
        f"{point.loss_increase:.2e} %",
        f"{1e3 * point.time:.3f} ms",
        f"{point.memory / 2**20:.3f} MiB",
    )
