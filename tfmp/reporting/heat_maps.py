"""Heat maps of a share, layer by step, a panel for each role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfmp.reporting import drawing
from tfmp.reporting.drawing import Plot
from tfmp.reporting.logs import ROLES, Run
from tfmp.reporting.ranking import LIMITS
from tfmp.reporting.verdicts import percent

ROWS, COLUMNS = 40, 120  # what stays legible
LOW, HIGH = 1e-5, 1.0  # of the colours
TITLES = {
    "underflow_share": "Flushed to zero",
    "saturation_share": "Clipped",
}


def draw(run: Run, measure: str, name: str) -> Plot | None:
    """Draws a share of all tensors over the steps.

    Layers are in the model's order; of many, those with the largest shares.

    Args:
        run: to draw.
        measure: a key of `TITLES`.
        name: of the picture.

    Returns:
        None if the log has no such share.
    """
    every = list(dict.fromkeys(t.rpartition("/")[0] for t in run.tensors))
    shares = np.array(
        [
            [run.values(f"{layer}/{role}/{measure}") for layer in every]
            for role in ROLES
        ]
    )
    if not np.isfinite(shares).any():
        return None
    shown = _worst(shares)
    layers, shares = [every[at] for at in shown], shares[:, shown]
    edges, cells = _binned(run.steps, shares)
    figure = _draw(drawing.without_common(layers), edges, cells, measure)
    return Plot(
        name,
        drawing.png(figure),
        f"{TITLES[measure]}, {len(layers)} layers by steps 0 to "
        f"{run.steps[-1]}. {_in_words(layers, shares)}",
        _caption(len(every) - len(layers), cells.shape[2] < len(run.steps)),
    )


def _worst(shares: np.ndarray) -> np.ndarray:
    """Returns the rows with the largest values, in their order."""
    peaks = np.where(np.isfinite(shares), shares, -1.0).max(axis=(0, 2))
    return np.sort(np.argsort(-peaks, kind="stable")[:ROWS])


def _binned(
    steps: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the edges of columns in steps, and the largest value in each."""
    parts = np.array_split(np.arange(len(steps)), min(COLUMNS, len(steps)))
    starts = [steps[part[0]] for part in parts]
    width = np.median(np.diff(steps)) if len(steps) > 1 else 1
    edges = np.array([*starts, steps[-1] + max(1, width)], float)
    known = np.where(np.isfinite(shares), shares, -np.inf)
    cells = np.stack([known[..., part].max(axis=-1) for part in parts], axis=-1)
    return edges, np.where(np.isfinite(cells), cells, np.nan)


def _draw(
    labels: Sequence[str], edges: np.ndarray, cells: np.ndarray, measure: str
) -> Any:
    figure = drawing.figure(8.4, 1.5 + 0.19 * len(labels))
    panels = figure.subplots(1, len(ROLES), sharey=True)
    colors = drawing.library("colors").LogNorm(LOW, HIGH)
    map_ = (
        drawing.library()
        .colormaps["magma_r"]
        .with_extremes(bad="#d5dbe1", under="#fdfdf8")
    )
    rows = np.arange(len(labels) + 1) - 0.5
    for axes, role, values in zip(panels, ROLES, cells, strict=True):
        painted = np.where(values == 0, LOW / 10, values)
        mesh = axes.pcolormesh(
            edges, rows, np.ma.masked_invalid(painted), norm=colors, cmap=map_
        )
        drawing.tidy(axes, role)
        axes.grid(False)
        axes.set_facecolor("#d5dbe1")
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("step", fontsize=8, color=drawing.TEXT)
    shown = [drawing.plain(drawing.shortened(text, 34)) for text in labels]
    panels[0].set_yticks(range(len(labels)), shown)
    panels[0].invert_yaxis()
    figure.suptitle(TITLES[measure], fontsize=9, color=drawing.TEXT)
    bar = figure.colorbar(mesh, ax=panels, pad=0.01, aspect=30, extend="min")
    ticks = [1e-4, LIMITS[measure], 1e-2, 1.0]
    bar.set_ticks(ticks, labels=[percent(tick) for tick in ticks])
    bar.ax.axhline(LIMITS[measure], color="black", linewidth=1.2)
    bar.ax.tick_params(labelsize=8, labelcolor=drawing.TEXT)
    bar.minorticks_off()
    return figure


def _caption(left_out: int, is_binned: bool) -> str:
    text = (
        "Layers in the model's order; white is none, grey is not known, the "
        "line on the scale is where it is worth a look."
    )
    if is_binned:
        text += " A column is the largest value of several samples."
    if left_out:
        text += f" {left_out} layers with smaller shares are left out."
    return text


def _in_words(layers: Sequence[str], shares: np.ndarray) -> str:
    peaks = np.where(np.isfinite(shares), shares, -1.0).max(axis=-1)
    role, layer = np.unravel_index(peaks.argmax(), peaks.shape)
    where = f"{layers[layer]}/{ROLES[role]}"
    return f"The largest share is {percent(float(peaks.max()))}, of {where}."
