"""The picture: the metric of each policy by epoch, and the differences."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples.harness.example import Example
from examples.harness.settings import BASELINE
from examples.harness.summary import values

COLORS = {
    "float32": "0.5",
    "mixed_float16": "tab:green",
    "mixed_bfloat16": "tab:blue",
    "mixed_float8": "tab:red",
}


def draw(example: Example, runs: list[dict], path: pathlib.Path) -> None:
    """Draws the metric, and the differences, which are too small to see there.

    Each has a gray band: how far another seed alone goes.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_metric(example, runs, left)
    draw_differences(example, runs, right)
    figure.suptitle(f"{example.name}: {example.says}")
    figure.savefig(path, dpi=120)


def curves(runs: list[dict]) -> dict[str, np.ndarray]:
    """Returns for each policy its curves, [seeds, epochs]."""
    policies = dict.fromkeys(run["policy"] for run in runs)
    return {policy: values(runs, policy, "curve") for policy in policies}


def baseline(found: dict[str, np.ndarray]) -> str:
    """What the others are compared with: bfloat16, or the first policy."""
    return BASELINE if BASELINE in found else next(iter(found))


def draw_metric(example: Example, runs: list[dict], axes: Axes) -> None:
    for policy, found in curves(runs).items():
        mean, epochs = found.mean(axis=0), 1 + np.arange(found.shape[1])
        label = f"{policy}: {mean[-1]:.{example.metric.digits}f}"
        color = COLORS[policy]
        axes.plot(epochs, mean, "o-", ms=3, color=color, label=label)
        axes.fill_between(
            epochs, found.min(0), found.max(0), color=color, alpha=0.12, lw=0
        )
    unit = f" ({example.metric.unit})" if example.metric.unit else ""
    axes.set_title("Mean and range of the seeds")
    axes.set(xlabel="epoch", ylabel=f"validation {example.metric.name}{unit}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def draw_differences(example: Example, runs: list[dict], axes: Axes) -> None:
    found = curves(runs)
    base = baseline(found)
    reference = found.pop(base)
    epochs = 1 + np.arange(reference.shape[1])
    around = reference - reference.mean(axis=0)
    axes.fill_between(epochs, around.min(0), around.max(0), color="0.9")
    axes.axhline(0, color=COLORS[base], lw=1)
    for at, (policy, curve) in enumerate(found.items()):
        gains = curve - reference
        mean = gains.mean(axis=0)
        ranges = [mean - gains.min(axis=0), gains.max(axis=0) - mean]
        beside = epochs + 0.12 * (at - (len(found) - 1) / 2)
        axes.errorbar(beside, mean, ranges, fmt="o", ms=4, color=COLORS[policy])
    axes.set_title(f"Difference from {base} (gray: its own seeds)")
    axes.set(xlabel="epoch", ylabel=f"{example.metric.name}, mean and range")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
