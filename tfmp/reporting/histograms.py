"""Histograms of exponents against the range of the FP8 format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfmp import formats
from tfmp.formats import Format
from tfmp.reporting import drawing
from tfmp.reporting.drawing import Plot
from tfmp.reporting.log_table import Histogram
from tfmp.reporting.logs import Run
from tfmp.reporting.ranking import Standing
from tfmp.reporting.verdicts import percent

MOST, COLUMNS = 12, 3
LEAST = 1e-6  # share of the values at the foot of a bar
FATES = {
    "flushed": ("flushed to zero", drawing.LOST),
    "subnormal": ("subnormal", drawing.SUBNORMAL),
    "normal": ("normal", drawing.NORMAL),
    "clipped": ("clipped", "#7b1fa2"),
}


def draw(run: Run, standings: Sequence[Standing], name: str) -> Plot | None:
    """Draws the newest histograms of the worst tensors that have one.

    Args:
        run: to draw.
        standings: its tensors, the worst first.
        name: of the picture.

    Returns:
        None if the log has no histogram of a known format.
    """
    known = [format.name for format in formats.FLOAT8]
    shown = [
        each
        for each in standings
        if each.tensor in run.histograms
        and each.format in known
        and any(run.histograms[each.tensor].counts)
    ]
    left_out, shown = len(shown) - MOST, shown[:MOST]
    if not shown:
        return None
    rows = math.ceil(len(shown) / COLUMNS)
    figure = drawing.figure(8.4, 0.6 + 1.75 * rows)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    labels = drawing.without_common([each.tensor for each in shown])
    pairs = [
        (run.histograms[each.tensor], formats.get_plain(each.format))
        for each in shown
    ]
    for axes, label, pair in zip(panels, labels, pairs, strict=False):
        _draw(axes, drawing.shortened(label, 30), *pair)
        axes.set_xlim(*_limits(pairs))
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    words = [
        f"{each.tensor}: {_in_words(*pair)}"
        for each, pair in zip(shown, pairs, strict=True)
    ]
    _legend(figure)
    caption = (
        "Of the newest sample: share of the non-zero values (logarithmic) by "
        "exponent, floor(log2(|x · scale|)). The band is the format's range."
    )
    if left_out > 0:
        caption += f" {left_out} better tensors are left out."
    alt = f"Histograms of exponents. {'; '.join(words)}"
    return Plot(name, drawing.png(figure), alt, caption)


def fates(histogram: Histogram, format: Format) -> dict[str, float]:
    """Returns the shares of the values that end up in each of `FATES`."""
    shares = dict.fromkeys(FATES, 0.0)
    total = sum(histogram.counts)
    for at, count in enumerate(histogram.counts):
        shares[fate(histogram.first + at, format)] += count / total
    return shares


def fate(exponent: int, format: Format) -> str:
    """Returns what becomes of a value with this exponent.

    The binade below the smallest subnormal number rounds up to it.

    >>> [fate(e, formats.E4M3) for e in (-11, -10, -7, -6, 8, 9)]
    ['flushed', 'subnormal', 'subnormal', 'normal', 'normal', 'clipped']
    """
    if exponent > format.max_exponent:
        return "clipped"
    if exponent >= format.min_exponent:
        return "normal"
    lowest = math.log2(format.min_subnormal) - 1
    return "subnormal" if exponent >= lowest else "flushed"


def _draw(axes: Any, title: str, histogram: Histogram, format: Format) -> None:
    exponents = histogram.first + np.arange(len(histogram.counts))
    shares = np.array(histogram.counts) / sum(histogram.counts)
    colors = [FATES[fate(int(e), format)][1] for e in exponents]
    drawing.tidy(axes, title)
    lowest = math.log2(format.min_subnormal)
    axes.axvspan(lowest, format.max_exponent + 1, color="#e8eef6", zorder=0)
    heights = np.maximum(shares, LEAST)
    axes.bar(exponents + 0.5, heights, width=0.9, color=colors)
    axes.set_yscale("log")
    axes.set_ylim(LEAST, 1.5)
    axes.set_yticks([1e-6, 1e-4, 1e-2, 1], ["", "0.01 %", "1 %", "100 %"])
    axes.set_yticks([], minor=True)
    axes.tick_params(labelsize=7)
    lost = fates(histogram, format)
    axes.set_xlabel(
        f"{format.name}: {percent(lost['flushed'])} flushed, "
        f"{percent(lost['clipped'])} clipped",
        fontsize=7,
        color=drawing.TEXT,
    )


def _limits(
    pairs: Sequence[tuple[Histogram, Format]],
) -> tuple[float, float]:
    """Returns one axis for all: each format's range, and what was seen."""
    ends = []
    for histogram, format in pairs:
        seen = histogram.first + np.flatnonzero(histogram.counts)
        lowest = math.log2(format.min_subnormal)
        ends += [
            lowest - 3,
            format.max_exponent + 3,
            seen.min(),
            seen.max() + 1,
        ]
    return min(ends), max(ends)


def _legend(figure: Any) -> None:
    patch = drawing.library("patches").Patch
    handles = [patch(color=color, label=text) for text, color in FATES.values()]
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=len(FATES),
        fontsize=8,
        frameon=False,
    )


def _in_words(histogram: Histogram, format: Format) -> str:
    shares = fates(histogram, format)
    parts = [f"{percent(s)} {FATES[name][0]}" for name, s in shares.items()]
    return f"{format.name}, {', '.join(parts)}"
