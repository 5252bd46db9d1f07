"""Loss and loss scale over the steps, of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmp.reporting import drawing
from tfmp.reporting.drawing import Plot
from tfmp.reporting.logs import STEP_LOSS, Run
from tfmp.reporting.verdicts import number

LOSS, SCALE, SKIPPED = "logs/loss", "loss_scale", "skipped_steps"
WIDE = 20.0  # losses that span more than this factor get a logarithmic axis


def draw(runs: Mapping[str, Run], name: str) -> Plot | None:
    """Draws the losses over each other, and the loss scales below them.

    Args:
        runs: by the name that each has in the picture.
        name: of the picture.

    Returns:
        None if no run has either.
    """
    panels = []
    if any(np.isfinite(run.losses).any() for run in runs.values()):
        panels.append(("Loss", _draw_loss))
    if any(run.varies(SCALE) for run in runs.values()):
        panels.append(("Loss scale", _draw_loss_scale))
    if not panels:
        return None
    figure = drawing.figure(8.4, 0.4 + 2.2 * len(panels))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for axes, (title, paint) in zip(grid[:, 0], panels, strict=True):
        drawing.tidy(axes, title)
        paint(axes, runs)
        _mark_changes(axes, runs)
    grid[-1, 0].set_xlabel("step", fontsize=8, color=drawing.TEXT)
    if len(runs) > 1:
        grid[0, 0].legend(fontsize=8, frameon=False, ncols=3)
    text = "; ".join(_in_words(key, run) for key, run in runs.items())
    caption = (
        f"The loss is that of {_of_what(runs)}. Crosses: steps were skipped "
        "since the sample before."
    )
    for run_name, run in runs.items():
        scale = run.last(SCALE)
        if np.isfinite(scale) and not run.varies(SCALE):
            of_run = f" of {run_name}" if len(runs) > 1 else ""
            caption += f" The loss scale{of_run} was always {number(scale)}."
    if any(run.changes for run in runs.values()):
        caption += " Dotted lines: precision was changed."
    return Plot(
        name, drawing.png(figure), f"Loss and loss scale. {text}", caption
    )


def _draw_loss(axes: Any, runs: Mapping[str, Run]) -> None:
    for at, (name, run) in enumerate(runs.items()):
        losses = _finite(run.losses)
        style = drawing.run_style(at)
        label = drawing.plain(drawing.shortened(name, 40))
        # A line through one point is not to be seen.
        marker = "o" if np.isfinite(losses).sum() < 2 else ""
        line = {"linewidth": 1.6, "marker": marker, **style}
        axes.plot(run.steps, losses, label=label, **line)
        _mark_skips(axes, run, losses, style["color"])
    seen = np.concatenate([_finite(run.losses) for run in runs.values()])
    low, high = np.nanmin(seen), np.nanmax(seen)
    if low > 0 and high / low > WIDE:
        axes.set_yscale("log")


def _draw_loss_scale(axes: Any, runs: Mapping[str, Run]) -> None:
    axes.set_yscale("log", base=2)
    for at, run in enumerate(runs.values()):
        scales = _finite(run.values(SCALE))
        scales[scales <= 0] = np.nan
        style = drawing.run_style(at)
        axes.step(run.steps, scales, where="post", linewidth=1.6, **style)
        _mark_skips(axes, run, scales, style["color"])


def _mark_skips(axes: Any, run: Run, heights: np.ndarray, color: str) -> None:
    """Marks the samples before which steps were skipped."""
    counts = np.nan_to_num(_finite(run.values(SKIPPED)))
    at = np.diff(counts, prepend=0.0) > 0
    marker = {"marker": "x", "s": 34, "linewidths": 1.6, "zorder": 3}
    axes.scatter(run.steps[at], heights[at], color=drawing.LOST, **marker)
    for step in run.steps[at]:
        axes.axvline(step, color=color, linewidth=0.5, alpha=0.3)


def _mark_changes(axes: Any, runs: Mapping[str, Run]) -> None:
    """Marks the steps before which precision was changed."""
    for at, run in enumerate(runs.values()):
        color = drawing.run_style(at)["color"]
        line = {"color": color, "linestyle": ":", "linewidth": 1.0}
        for step in {change.step for change in run.changes}:
            axes.axvline(step, alpha=0.6, **line)


def _of_what(runs: Mapping[str, Run]) -> str:
    """Returns what the losses of the picture are."""
    kinds = {
        "the sampled steps"
        if np.isfinite(run.values(STEP_LOSS)).any()
        else "Keras' running mean of the epoch"
        for run in runs.values()
    }
    return ", of a log without these ".join(sorted(kinds, reverse=True))


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _in_words(name: str, run: Run) -> str:
    seen = run.losses[np.isfinite(run.losses)]
    loss = seen[-1] if len(seen) else math.nan
    return (
        f"{name}: after step {run.steps[-1]}, loss {number(loss)}, "
        f"loss scale {number(run.last(SCALE))}, skipped steps "
        f"{number(run.last(SKIPPED))}"
    )
