"""The pictures of an analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfmp._support import checks
from tfmp.analysis.libraries import library
from tfmp.analysis.points import Point
from tfmp.reporting import drawing

ROW, SPACE = 0.22, 1.2  # inches: a bar with its share, and all else
LONGEST = 48  # characters of a layer's name
LEGEND = {"fontsize": 7, "frameon": False}
MARKS = (("*", 12), ("s", 9), ("o", 12), ("D", 6))  # and points: all show


def bars(path: Any, rows: Sequence[tuple[str, str, float]], title: str) -> None:
    """Draws a bar for each layer and candidate, on a logarithmic axis.

    Args:
        path: of the PNG file.
        rows: layer, candidate and expected increase of the loss in percent.
        title: above it.
    """
    target, figure = checks.path("path", path), library("matplotlib.figure")
    layers = list(dict.fromkeys(layer for layer, _, _ in rows))
    names = list(dict.fromkeys(candidate for _, candidate, _ in rows))
    height = SPACE + ROW * max(1, len(rows))
    made = figure.Figure(figsize=(8, height), dpi=drawing.DPI)
    made.set_layout_engine("constrained")
    axes = made.subplots()
    drawing.tidy(axes, title)
    for number, name in enumerate(names):
        mine = [(layers.index(x), v) for x, c, v in rows if c == name and v > 0]
        axes.barh(
            [place + 0.8 * number / len(names) for place, _ in mine],
            [value for _, value in mine],
            height=0.8 / len(names),
            color=drawing.run_style(number)["color"],
            label=drawing.plain(name),
        )
    axes.set_yticks(range(len(layers)), _short(layers))
    axes.invert_yaxis()
    if any(value > 0 for _, _, value in rows):
        axes.set_xscale("log")
    axes.set_xlabel("expected increase of the loss, %", fontsize=8)
    made.legend(loc="outside lower center", ncols=3, **LEGEND)
    target.write_bytes(drawing.png(made))


def frontier(
    path: Any, points: Sequence[Point], baselines: Sequence[Point], best: Point
) -> None:
    """Draws accuracy over time.

    Args:
        path: of the PNG file.
        points: the frontier.
        baselines: to compare with.
        best: the choice.
    """
    target, figure = checks.path("path", path), library("matplotlib.figure")
    made = figure.Figure(figsize=(6, 4), dpi=drawing.DPI)
    made.set_layout_engine("constrained")
    axes = made.subplots()
    drawing.tidy(axes, "predicted increase of the loss over time")
    times = [1e3 * point.time for point in points]
    increases = [point.loss_increase for point in points]
    axes.plot(times, increases, "o-", color=drawing.NORMAL, markersize=3)
    for number, point in enumerate((best, *baselines)):
        mark, size = MARKS[number % len(MARKS)]
        axes.plot(
            1e3 * point.time,
            point.loss_increase,
            mark,
            color=drawing.RUNS[number % len(drawing.RUNS)],
            markersize=size,
            fillstyle="none" if number else "full",
            label=drawing.plain(point.name),
        )
    positive = [p.loss_increase for p in (*points, *baselines, best)]
    least = min((value for value in positive if value > 0), default=1.0)
    axes.set_yscale("symlog", linthresh=least)
    axes.set_xlabel("products in a training step, ms", fontsize=8)
    axes.set_ylabel("increase of the loss, %", fontsize=8)
    made.legend(loc="outside lower center", ncols=2, **LEGEND)
    target.write_bytes(drawing.png(made))


def _short(layers: Sequence[str]) -> list[str]:
    names = drawing.without_common(layers)
    return [drawing.plain(drawing.shortened(name, LONGEST)) for name in names]
