"""Loss and loss scale over the steps, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmp.reporting import drawing
from tfmp.reporting.drawing import Plot
from tfmp.reporting.logs import Run
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
    panels = [
        (key, title, paint)
        for key, title, paint in (
            (LOSS, "Loss", _draw_loss),
            (SCALE, "Loss scale", _draw_loss_scale),
        )
        if any(np.isfinite(run.values(key)).any() for run in runs.values())
    ]
    if not panels:
        return None
    figure = drawing.figure(8.4, 0.4 + 2.2 * len(panels))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for axes, (_, title, paint) in zip(grid[:, 0], panels, strict=True):
        drawing.tidy(axes, title)
        paint(axes, runs)
        _mark_changes(axes, runs)
    grid[-1, 0].set_xlabel("step", fontsize=8, color=drawing.TEXT)
    if len(runs) > 1:
        grid[0, 0].legend(fontsize=8, frameon=False, ncols=3)
    text = "; ".join(_in_words(key, run) for key, run in runs.items())
    caption = (
        "The loss is Keras' running mean of the epoch. Crosses: steps were "
        "skipped since the sample before."
    )
    if any(run.changes for run in runs.values()):
        caption += " Dotted lines: precision was changed."
    return Plot(
        name, drawing.png(figure), f"Loss and loss scale. {text}", caption
    )


def _draw_loss(axes: Any, runs: Mapping[str, Run]) -> None:
    for at, (name, run) in enumerate(runs.items()):
        losses = _finite(run.values(LOSS))
        style = drawing.run_style(at)
        label = drawing.plain(drawing.shortened(name, 40))
        # A line through one point is not to be seen.
        marker = "o" if np.isfinite(losses).sum() < 2 else ""
        line = {"linewidth": 1.6, "marker": marker, **style}
        axes.plot(run.steps, losses, label=label, **line)
        _mark_skips(axes, run, losses, style["color"])
    seen = np.concatenate([_finite(run.values(LOSS)) for run in runs.values()])
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


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _in_words(name: str, run: Run) -> str:
    return (
        f"{name}: after step {run.steps[-1]}, loss {number(run.last(LOSS))}, "
        f"loss scale {number(run.last(SCALE))}, skipped steps "
        f"{number(run.last(SKIPPED))}"
    )
