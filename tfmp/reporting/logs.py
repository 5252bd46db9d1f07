"""What `ScaleMonitor` left in a folder, as arrays over the samples."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfmp._support import checks
from tfmp._support.changes import Change
from tfmp.reporting.log_table import Histogram, Table

SAMPLES, ABOUT = "scales.jsonl", "run.json"
STEP_LOSS = "logs/step_loss"  # of the newest execution alone
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
        changes: of precision, in their order.
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
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    def values(self, key: str) -> np.ndarray:
        """Returns a series; NaN for all samples if the log has none."""
        missing = np.full(len(self.steps), np.nan)
        return self.series.get(key, missing)

    def varies(self, key: str) -> bool:
        """Whether a series has two values that differ."""
        values = self.values(key)
        known = values[~np.isnan(values)]
        return bool(len(known) and (known != known[0]).any())

    @property
    def losses(self) -> np.ndarray:
        """The loss of each sample's own step; of an old log Keras' mean."""
        of_steps = self.values(STEP_LOSS)
        known = np.isfinite(of_steps).any()
        return of_steps if known else self.values("logs/loss")

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
    table = Table()
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
        folder=folder,
        about=about,
        steps=steps,
        seconds=seconds,
        series=series,
        tensors=tensors,
        histograms=table.histograms,
        said=tuple(table.said),
        changes=tuple(change for _, change in table.changes),
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
    said = (
        "must be a folder that tfmp.callbacks.ScaleMonitor wrote, as each of "
        "`log_dirs`"
    )
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
            if abs(found["step"]) >= 2**62:
                raise ValueError("no step")
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            # Only the last line can have no end: it is being written.
            broken += line.endswith(b"\n") and bool(line.strip())
            continue
        yield found
    if broken:
        notes.append(f"{broken} lines of {SAMPLES} are not samples.")


def _tensor(key: str) -> str | None:
    """Returns the tensor that a key is about, None for other keys."""
    tensor, _, measure = key.rpartition("/")
    path, _, role = tensor.rpartition("/")
    return tensor if path and role in ROLES and measure in MEASURES else None
