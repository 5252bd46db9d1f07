"""The pictures of the guides, each drawn from what the library computes.

    python docs/pictures.py

draws them to `docs/images/`, where a guide also finds them on a code host.  The
numbers that a picture shows are in its metadata, and a test holds them against
what the library computes today.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from html import unescape

import matplotlib
import measure
import numpy as np
import simulate

from tfmp import formats, ops

matplotlib.use("agg")
from matplotlib import pyplot as plt

IMAGES = pathlib.Path(__file__).parent / "images"
COLORS = {
    "float32": "#555555",
    "TF32": "#8c6bb1",
    "float16": "#2c7fb8",
    "bfloat16": "#41ae76",
    "E4M3": "#d95f0e",
    "E5M2": "#c51b8a",
}
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (7.5, 3.4),
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "tfmp",  # the same file from the same picture
}


def draw(folder: pathlib.Path) -> None:
    """Draws every picture to `folder/<name>.svg`."""
    for name, values in painted():
        about = {"Date": None, "Description": json.dumps(values)}
        plt.savefig(folder / f"{name}.svg", metadata=about)


def painted() -> Iterator[tuple[str, list[float]]]:
    """Yields the name of each picture, painted, and the numbers in it."""
    painters: tuple[Callable[[], None], ...] = (
        bits,
        number_lines,
        relative_errors,
        histograms,
        scale_sweep,
        delayed_and_current,
        loss_scale,
    )
    for paint in painters:
        plt.close("all")  # a figure that others left open would be painted on
        with matplotlib.rc_context(STYLE):
            paint()
            yield paint.__name__, numbers()
            plt.close()


def numbers() -> list[float]:
    """Returns the numbers in the picture that is being painted, rounded."""
    found: list[float] = []
    for axes in plt.gcf().axes:
        for line in axes.lines:
            found += np.ravel(line.get_xydata()).tolist()
        for bar in axes.patches:
            found += (
                bar.get_extents().transformed(axes.transData.inverted()).bounds
            )
        for dots in axes.collections:
            found += np.ravel(dots.get_offsets()).tolist()
    return [float(f"{number:.4g}") for number in found]


def drawn(picture: pathlib.Path) -> list[float]:
    """Returns the numbers that a picture was drawn from."""
    svg = picture.read_text(encoding="utf-8")
    said = re.search(r"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)
    return json.loads(unescape(said[1])) if said else []


def bits() -> None:
    """The fields of each format, to scale."""
    _, axes = plt.subplots(figsize=(7.5, 2.6))
    for row, f in enumerate(measure.FORMATS.values()):
        left = 0
        fields = (1, "#999999"), (f.exponent_bits, "#fdae6b")
        for width, color in (*fields, (f.mantissa_bits, "#9ecae1")):
            axes.barh(row, width, left=left, color=color, edgecolor="white")
            axes.text(
                left + width / 2, row, str(width), ha="center", va="center"
            )
            left += width
    axes.set_yticks(range(len(measure.FORMATS)), list(measure.FORMATS))
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xlabel("bits: sign, exponent, mantissa")


def number_lines() -> None:
    """Every value of E4M3 and E5M2 from 0 to 4."""
    _, axes = plt.subplots(figsize=(7.5, 1.9))
    for row, f in enumerate(formats.FLOAT8):
        values = measure.all_values(f)
        values = values[(values >= 0) & (values <= 4)]
        rows = np.full_like(values, row)
        axes.scatter(values, rows, s=260, marker="|", color=COLORS[f.name])
    axes.set_yticks([0, 1], [f.name for f in formats.FLOAT8])
    axes.set_ylim(1.6, -0.6)
    axes.set_xlabel("value")


def relative_errors() -> None:
    """The error of rounding against the magnitude of what is rounded."""
    _, axes = plt.subplots()
    x = measure.log_uniform(-30, 20)
    edges = np.arange(-30, 21)
    cell = np.digitize(np.log2(x), edges)
    for name, f in measure.FORMATS.items():
        if name == "float32":
            continue
        error = measure.relative_error(x, f)
        cells = [error[cell == c].max() for c in range(1, len(edges))]
        worst = np.where(np.isfinite(cells), cells, 1)
        style = "--" if name == "TF32" else "-"
        middle = edges[:-1] + 0.5
        axes.plot(middle, worst, style, color=COLORS[name], label=name)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("magnitude, power of two")
    axes.set_ylabel("largest relative error")
    axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1))


def histograms() -> None:
    """A tensor's exponents against E4M3, before and after scaling."""
    x = measure.normal() * np.float32(1e-3)
    scale = measure.top_scale(x, formats.E4M3)
    _, panels = plt.subplots(2, sharex=True, sharey=True, figsize=(7.5, 3.8))
    for axes, factor in zip(panels, (1.0, scale), strict=True):
        lost = float(ops.underflow_share(x, factor, "E4M3"))
        exponents = np.floor(np.log2(np.abs(x * np.float32(factor))))
        axes.hist(exponents, np.arange(-26, 12), color=COLORS["bfloat16"])
        axes.axvspan(-9, 9, color=COLORS["E4M3"], alpha=0.15)
        axes.set_title(
            f"scale {factor:g}: {lost:.1%} flushed to zero", fontsize=10
        )
        axes.set_yticks([])
    panels[1].set_xlabel("power of two (shaded: the range of E4M3)")


def scale_sweep() -> None:
    """What every scale costs a tensor of normal values times 0.001."""
    x = measure.normal() * np.float32(1e-3)
    powers = np.arange(-12, 26)
    _, panels = plt.subplots(1, 2, figsize=(7.5, 3.2))
    for f in formats.FLOAT8:
        zero = [ops.underflow_share(x, 2.0**p, f) for p in powers]
        full = [ops.saturation_share(x, 2.0**p, f) for p in powers]
        sqnr = [ops.sqnr(x, measure.round_to(x, f, 2.0**p)) for p in powers]
        color = COLORS[f.name]
        panels[0].plot(powers, zero, "-", color=color, label=f"{f.name}: zero")
        panels[0].plot(powers, full, ":", color=color, label="clipped")
        panels[1].plot(powers, sqnr, "-", color=color, label=f.name)
        best = np.log2(measure.top_scale(x, f))
        panels[1].axvline(best, color=color, ls="--", lw=1)
    panels[0].set_ylabel("share of the values")
    panels[1].set_ylabel("SQNR, dB (dashed: compute_scale)")
    for axes in panels:
        axes.set_xlabel("scale, power of two")
        axes.legend(fontsize=8)


def delayed_and_current() -> None:
    """Both ways of scaling over steps with an outlier and a growth."""
    runs = simulate.scalings(simulate.amax_of_steps())
    observed = runs["observed"]
    _, panels = plt.subplots(2, sharex=True, figsize=(7.5, 4.2))
    panels[0].plot(observed, "k.", ms=4, label="observed amax")
    for name, color in (("delayed", "#d95f0e"), ("current", "#41ae76")):
        top, lost = runs[name]
        panels[0].step(
            range(len(top)), top, color=color, where="mid", label=name
        )
        panels[1].plot(lost, color=color, label=name)
    panels[0].set_yscale("log", base=2)
    panels[0].set_ylabel("largest value that fits")
    panels[0].legend(ncols=3, fontsize=8)
    panels[1].set_ylabel("SQNR, dB")
    panels[1].set_xlabel("step")


def loss_scale() -> None:
    """The loss scale of a training whose gradients grow, then shrink."""
    scales, skipped, limit = simulate.loss_scales()
    plt.step(range(len(scales)), scales, color=COLORS["float16"], where="post")
    plt.plot(limit, "--", color=COLORS["E4M3"], lw=1)
    plt.plot(skipped, [scales[s] for s in skipped], "x", color="#c51b8a")
    plt.yscale("log", base=2)
    plt.xlabel("step (x: skipped)")
    plt.ylabel("loss scale (dashed: the limit)")


if __name__ == "__main__":
    draw(IMAGES)
