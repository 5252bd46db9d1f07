"""The result of a comparison: a table, data and a picture."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from tfmp._support import checks, tables
from tfmp.reporting import drawing

MEBI = 2**20


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long a model takes for a batch, over several calls.

    Attributes:
        median: seconds.
        p95: seconds, the 95th percentile.
    """

    median: float
    p95: float

    def __post_init__(self) -> None:
        for name in ("median", "p95"):
            value = checks.number(name, getattr(self, name), 0, math.inf)
            object.__setattr__(self, name, float(value))


@dataclasses.dataclass(frozen=True)
class ComparedModel:
    """What one of the models costs and gives.

    Attributes:
        name: of the model, or of its policy.
        metrics: of `model.evaluate`, by name, those of several numbers by their
            mean; empty without labels, or if the
            model is not compiled.
        sqnr: of its outputs against the first model's, in dB, the worst of
            all outputs; infinite where they are equal.
        latency: a `Latency` for each batch size.
        weight_bytes: of its variables, without those of the optimizer.
        peak_bytes: the most memory that was in use while the largest batch
            ran, above what was in use before, or on a GPU in all; None where
            it is not known.
        float8_share: of the FLOPs of a call, 0 to 1.

    >>> timed = {1: Latency(2e-3, 3e-3)}
    >>> ComparedModel("a", {"loss": 0.5}, math.inf, timed, 4096).throughput(1)
    500.0
    """

    name: str
    metrics: dict[str, float]
    sqnr: float
    latency: dict[int, Latency]
    weight_bytes: int
    peak_bytes: int | None = None
    float8_share: float = 0.0

    def __post_init__(self) -> None:
        checks.fields(self, name=str, metrics=dict, latency=dict)
        checks.integer("weight_bytes", self.weight_bytes, 0)

    def throughput(self, batch_size: int) -> float:
        """Returns how many samples it takes in a second.

        Args:
            batch_size: one of those that were timed.

        Raises:
            TypeError, ValueError: if it was not timed.
        """
        checks.integer("batch_size", batch_size, 1)
        if batch_size not in self.latency:
            raise ValueError(
                f"`batch_size` must be one of {list(self.latency)}, which "
                f"were timed. Received: {batch_size!r}"
            )
        return batch_size / self.latency[batch_size].median

    def to_dict(self) -> dict[str, Any]:
        """Returns it as data for JSON; None for an SQNR that is not finite."""
        found = dataclasses.asdict(self)
        found["sqnr"] = self.sqnr if math.isfinite(self.sqnr) else None
        for size, timed in found["latency"].items():
            timed["throughput"] = self.throughput(size)
        return found


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Models beside each other, the first as what the others are held against.

    Printing it gives a table: metrics, distance from the first model's
    outputs, milliseconds a call (median, 95th percentile) and, of the median,
    how many times faster than the first.

    Attributes:
        models: a `ComparedModel` each.
        machine: where it was measured.
        notes: what else to know.

    >>> times = ({1: Latency(4e-3, 5e-3)}, {1: Latency(2e-3, 3e-3)})
    >>> rows = (
    ...     ComparedModel("float32", {}, math.inf, times[0], 4 * MEBI),
    ...     ComparedModel("frozen", {}, 30.5, times[1], MEBI, None, 1.0),
    ... )
    >>> print(Comparison(rows))
    model    SQNR, dB  ms for 1 (95 %), times  weights, MiB  peak, MiB  FP8
    float32  -         4 (5), 1.00             4.00          -          0%
    frozen   30.5      2 (3), 2.00             1.00          -          100%
    """

    models: tuple[ComparedModel, ...]
    machine: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.sequence(
            "models", self.models, ComparedModel, "a tuple of ComparedModel"
        )
        if not self.models:
            raise ValueError("`models` must not be empty. Received: ()")
        checks.fields(self, machine=str, notes=tuple)

    def __getitem__(self, name: str) -> ComparedModel:
        """Returns the row of a name."""
        for each in self.models:
            if each.name == name:
                return each
        known = ", ".join(repr(each.name) for each in self.models)
        raise KeyError(f"no model {name!r}; there are {known}")

    def speedup(self, name: str, batch_size: int) -> float:
        """Returns how many times faster than the first model one is."""
        first = self.models[0].throughput(batch_size)
        return self[name].throughput(batch_size) / first

    def __str__(self) -> str:
        lines = tables.lines([self._titles(), *map(self._cells, self.models)])
        if self.machine:
            lines.append(f"on {self.machine}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__

    def _titles(self) -> list[str]:
        sizes = self.models[0].latency
        return [
            "model",
            *self._metrics(),
            "SQNR, dB",
            *(f"ms for {size} (95 %), times" for size in sizes),
            "weights, MiB",
            "peak, MiB",
            "FP8",
        ]

    def _metrics(self) -> list[str]:
        """Returns the names of what any of the models measures."""
        return list(dict.fromkeys(n for m in self.models for n in m.metrics))

    def _cells(self, row: ComparedModel) -> list[str]:
        peak = row.peak_bytes
        return [
            row.name,
            *(
                f"{row.metrics[name]:.4g}" if name in row.metrics else "-"
                for name in self._metrics()
            ),
            "-" if row is self.models[0] else f"{row.sqnr:.1f}",
            *(
                f"{1e3 * timed.median:.3g} ({1e3 * timed.p95:.3g}), "
                f"{self.speedup(row.name, size):.2f}"
                for size, timed in row.latency.items()
            ),
            f"{row.weight_bytes / MEBI:.2f}",
            "-" if peak is None else f"{peak / MEBI:.0f}",
            f"{row.float8_share:.0%}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as data for JSON."""
        return {
            "models": [each.to_dict() for each in self.models],
            "machine": self.machine,
            "notes": list(self.notes),
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws latencies by batch size, and the size of the weights.

        Args:
            path: of the PNG file.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        target = checks.path("path", path)
        sizes = list(self.models[0].latency)
        figure = drawing.figure(3 * (1 + len(sizes)), 1 + len(self.models) / 3)
        names = [drawing.plain(each.name) for each in self.models]
        panels = figure.subplots(1, 1 + len(sizes), sharey=True, squeeze=False)
        for axes, size in zip(panels[0], sizes, strict=False):
            timed = [each.latency[size] for each in self.models]
            medians = [1e3 * each.median for each in timed]
            late = [1e3 * max(0.0, each.p95 - each.median) for each in timed]
            axes.barh(
                names,
                medians,
                color=drawing.NORMAL,
                xerr=[[0.0] * len(late), late],
            )
            drawing.tidy(axes, f"ms for a batch of {size}")
        weights = [each.weight_bytes / MEBI for each in self.models]
        panels[0, -1].barh(names, weights, color=drawing.RUNS[2])
        drawing.tidy(panels[0, -1], "weights, MiB")
        panels[0, 0].invert_yaxis()
        target.write_bytes(drawing.png(figure))
