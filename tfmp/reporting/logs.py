"""What `ScaleMonitor` left in a folder, as arrays over the samples."""

from __future__ import annotations

import array
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfmp import checks

SAMPLES, ABOUT = "scales.jsonl", "run.json"
ROLES = ("inputs", "kernel", "grads")
MEASURES = (
    "amax",
    "scale",
    "observed_amax",
    "underflow_share",
    "saturation_share",
    "sqnr",
    "range_share",
    "lag",
)


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


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, as its log tells it.

    Attributes:
        folder: that `ScaleMonitor` wrote.
        about: what `run.json` says; empty without one.
        steps: of the samples, rising.
        seconds: of the samples, since 1970.
        series: an array over the samples by key; NaN where a sample has no
            such value, infinite where the value was not finite.  What Keras
            logged is called `logs/loss` and so on.
        tensors: `<layer path>/<role>`, in the log's order.
        histograms: of each tensor the newest one.
        said: what the monitor warned of, with the step.
        notes: what else to know about the log.
    """

    folder: pathlib.Path
    about: dict[str, Any]
    steps: np.ndarray
    seconds: np.ndarray
    series: dict[str, np.ndarray]
    tensors: tuple[str, ...]
    histograms: dict[str, Histogram]
    said: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()

    def values(self, key: str) -> np.ndarray:
        """Returns a series; NaN for all samples if the log has none."""
        missing = np.full(len(self.steps), np.nan)
        return self.series.get(key, missing)

    def format(self, tensor: str) -> str:
        """Returns the name of a tensor's format; HYBRID if it is not said."""
        known = self.about.get("tensors", {}).get(tensor, {}).get("format")
        usual = "E5M2" if tensor.endswith("/grads") else "E4M3"
        return str(known or usual)

    def last(self, key: str) -> float:
        """Returns the newest value of a series that has one, else NaN."""
        values = self.values(key)
        present = values[~np.isnan(values)]
        return float(present[-1]) if len(present) else math.nan


def read(log_dir: Any) -> Run:
    """Reads the folder that `ScaleMonitor` wrote, also while it is written.

    A last line that is cut short is left out, and other broken lines with a
    note.  Where the steps go back, as after a crash, the newer samples hold.

    Args:
        log_dir: the folder, or its `scales.jsonl`.

    Raises:
        TypeError: if `log_dir` is no path.
        ValueError: if it has no samples.
    """
    folder = _checked_folder(checks.path("log_dir", log_dir))
    about, notes = _read_about(folder / ABOUT)
    table = _Table()
    with open(folder / SAMPLES, "rb") as lines:
        for sample in _samples(lines, notes):
            table.add(sample)
    if not len(table.steps):
        raise ValueError(
            "`log_dir` must hold samples, but none was written to its "
            f"{SAMPLES} yet. Received: {str(log_dir)!r}"
        )
    if table.replaced:
        notes.append(
            f"{table.replaced} samples were written again by a training that "
            "went on from an earlier step; the newer ones are shown."
        )
    series = table.series()
    tensors = tuple(dict.fromkeys(filter(None, map(_tensor, series))))
    steps, seconds = np.array(table.steps), np.array(table.seconds)
    return Run(
        *(folder, about, steps, seconds, series, tensors),
        histograms=table.histograms,
        said=tuple(table.said),
        notes=tuple(notes),
    )


def names(runs: Iterable[Run]) -> list[str]:
    """Returns a short name for each run: the ends of paths that differ."""
    parts = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts), default=0) + 1):
        found = ["/".join(path[-length:]) for path in parts]
        if len(set(found)) == len(set(parts)):
            return found
    return ["/".join(path) for path in parts]


def _checked_folder(path: pathlib.Path) -> pathlib.Path:
    if path.name == SAMPLES and path.is_file():
        path = path.parent
    if (path / SAMPLES).is_file():
        return path
    said = "must be a folder that tfmp.callbacks.ScaleMonitor wrote"
    if not path.is_dir():
        raise ValueError(f"`log_dir` {said}. Received: {str(path)!r}")
    inside = sorted(str(p.parent) for p in path.glob(f"*/{SAMPLES}"))
    hint = f"These are: {', '.join(inside[:8])}. " if inside else ""
    raise ValueError(
        f"`log_dir` {said}, with {SAMPLES} in it. {hint}Received: {str(path)!r}"
    )


def _read_about(path: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    guess = (
        "the formats are taken to be E5M2 for gradients and E4M3 for all else."
    )
    if not path.is_file():
        return {}, [f"There is no {ABOUT}: {guess}"]
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tensors = found.get("tensors", {})
        if all(isinstance(each, dict) for each in tensors.values()):
            return found, []
    except (AttributeError, ValueError, RecursionError):
        pass
    return {}, [f"{ABOUT} is not what ScaleMonitor writes: {guess}"]


def _samples(
    lines: Iterable[bytes], notes: list[str]
) -> Iterator[dict[str, Any]]:
    broken = 0
    for line in lines:
        try:
            found = json.loads(line)
            found["step"], found["time"] = int(found["step"]), found.get("time")
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            # Only the last line can have no end: it is being written.
            broken += line.endswith(b"\n") and bool(line.strip())
            continue
        yield found
    if broken:
        notes.append(f"{broken} lines of {SAMPLES} are not samples.")


class _Table:
    """Columns that grow with each sample."""

    def __init__(self) -> None:
        self.steps = array.array("q")
        self.seconds = array.array("d")
        self.histograms: dict[str, Histogram] = {}
        self.said: list[tuple[int, str]] = []
        self.replaced = 0
        self._columns: dict[str, array.array[float]] = {}

    def add(self, sample: dict[str, Any]) -> None:
        """Takes in a sample, in place of any from its step on."""
        self._go_back_to(sample["step"])
        rows = len(self.steps)
        self.steps.append(sample["step"])
        time = sample["time"]
        self.seconds.append(math.nan if not _is_number(time) else time)
        for key, value in _scalars(sample):
            column = self._columns.setdefault(key, array.array("d"))
            column.extend([math.nan] * (rows - len(column)))
            column.append(value)
        texts = sample.get("findings")
        for text in texts if isinstance(texts, list) else ():
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


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return isinstance(value, float) or abs(value) < 2**1000


def _is_histogram(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2
    if not pair or not isinstance(value[0], int):
        return False
    counts = value[1]
    return isinstance(counts, list) and all(
        _is_number(count) and 0 <= count < math.inf for count in counts
    )


def _tensor(key: str) -> str | None:
    """Returns the tensor that a key is about, None for other keys."""
    tensor, _, measure = key.rpartition("/")
    path, _, role = tensor.rpartition("/")
    return tensor if path and role in ROLES and measure in MEASURES else None
