"""What was wrong with a training and is so no longer."""

from __future__ import annotations

import math

import numpy as np

from tfmp._support import advice
from tfmp.reporting.logs import Run

LOWEST = "mixed_float8"  # how policies in FP8 begin
MEASURES = ("underflow_share", "saturation_share", "sqnr", "lag")


def since(run: Run, text: str) -> str:
    """Returns how something the monitor warned of was mended, "" if not.

    Args:
        run: whose newest measured sample says how it is.
        text: of the warning.
    """
    if text == advice.NOT_FINITE:
        fine = math.isfinite(run.last("logs/loss"))
        return "it is finite in the newest sample" if fine else ""
    if text == advice.SKIPPED:
        skipped = np.diff(run.values("skipped_steps")[-2:])
        taken = len(skipped) and skipped[0] < np.diff(run.steps[-2:])[0]
        return "steps are taken again" if taken else ""
    tensor = _tensor(run, text)
    if tensor is None:
        return ""
    if has_left(run, tensor):
        return "it has left FP8 since"
    finding = advice.of_tensor(tensor, _newest(run, tensor))
    return "" if finding else "it is well in the newest sample"


def without_advice(text: str) -> str:
    """Returns a warning without what to do about it."""
    return text.partition("; ")[0]


def has_left(run: Run, tensor: str) -> bool:
    """Whether a tensor was measured in FP8, and is in FP8 no longer.

    A layer that a callback moved up is measured on, as FP8 would quantize it:
    its changes tell.  What left otherwise is not in the newest measurement.
    """
    layer = tensor.rpartition("/")[0]
    changes = [change.after for change in run.changes if change.layer == layer]
    if changes:
        return not changes[-1].startswith(LOWEST)
    row = _newest_row(run)
    known = [~np.isnan(run.values(f"{tensor}/{name}")) for name in MEASURES]
    measured = np.any(known, axis=0)
    return row is not None and bool(measured.any() and not measured[row])


def _tensor(run: Run, text: str) -> str | None:
    """Returns the tensor that a warning is about, None if it is about none."""
    layer, _, said = text.partition(": ")
    for role, name in advice.NAMES.items():
        tensor = f"{layer}/{role}"
        if tensor in run.tensors and name in said.partition("; ")[0]:
            return tensor
    return None


def _newest_row(run: Run) -> int | None:
    """Returns the newest sample in which a tensor was measured."""
    keys = [f"{tensor}/{name}" for tensor in run.tensors for name in MEASURES]
    known = [~np.isnan(run.values(key)) for key in keys]
    if not known:
        return None
    rows = np.flatnonzero(np.any(known, axis=0))
    return int(rows[-1]) if len(rows) else None


def _newest(run: Run, tensor: str) -> dict[str, float]:
    """Returns a tensor's newest statistics."""
    newest = {name: run.last(f"{tensor}/{name}") for name in MEASURES}
    return {name: v for name, v in newest.items() if not math.isnan(v)}
