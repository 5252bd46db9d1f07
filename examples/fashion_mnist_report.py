"""The table and the picture of a comparison of policies."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfmp import recipes

# Color and width: drawn in this order, each line shows beside the others.
LINES = {
    "float32": ("0.8", 9),
    "mixed_bfloat16": ("tab:blue", 5.5),
    "mixed_float16": ("tab:green", 3),
    "mixed_float8": ("black", 1),
}


def policies_of(runs: list[dict]) -> list[str]:
    """Returns the names of the policies, in the order of their first runs."""
    return list(dict.fromkeys(run["policy"] for run in runs))


def summarize(runs: list[dict]) -> dict[str, dict]:
    """Returns a row of the table for each policy: means over its seeds."""
    rows: dict[str, dict] = {}
    for policy in policies_of(runs):
        own = [run for run in runs if run["policy"] == policy]
        accuracies = [run["test_accuracy"] for run in own]
        counts = own[0]["products"]
        rows[policy] = {
            "test_accuracy": np.mean(accuracies),
            # Of one seed there is no deviation.
            "deviation": np.std(accuracies, ddof=1) if own[1:] else None,
            "step_ms": np.median([run["step_ms"] for run in own]),
            "fp8_products": sum(n for t, n in counts.items() if t[0] == "E"),
            "all_products": sum(counts.values()),
            "layers": own[0]["layers"],
        }
    baseline = rows.get("mixed_bfloat16", {}).get("test_accuracy")
    for row in rows.values():
        row["points_from_bfloat16"] = (
            None if baseline is None else row["test_accuracy"] - baseline
        )
    return rows


def table(rows: dict[str, dict]) -> str:
    """Formats the rows, and below them what ran in which precision."""
    head = ("policy", "test accuracy", "vs bfloat16", "step", "FP8 products")
    lines = ["{:16}{:>18}{:>14}{:>12}{:>15}".format(*head)]
    for policy, row in rows.items():
        spread, points = row["deviation"], row["points_from_bfloat16"]
        accuracy = f"{row['test_accuracy']:.2f}"
        accuracy += "" if spread is None else f" ± {spread:.2f}"
        lines.append(
            f"{policy:16}{accuracy + ' %':>18}"
            f"{'-' if points is None else f'{points:+.2f}':>14}"
            f"{row['step_ms']:>9.1f} ms"
            f"{row['fp8_products']:>10} of {row['all_products']}"
        )
    lines += ["", "Layers (FP8: operands of output, input and kernel gradient)"]
    for policy, row in rows.items():
        for text in dict.fromkeys(row["layers"].values()):
            names = [k for k, v in row["layers"].items() if v == text]
            lines.append(f"{policy:16}{', '.join(names):28}{text}")
    return "\n".join(lines)


def draw(runs: list[dict], path: pathlib.Path) -> None:
    """Draws the loss of each policy and, if FP8 is among them, its scales."""
    scales = next((run["scales"] for run in runs if run["scales"]), [])
    figure = Figure(figsize=(12 if scales else 6, 4.8), layout="constrained")
    left, *right = np.ravel(figure.subplots(1, 2 if scales else 1))
    for policy in policies_of(runs):
        color, width = LINES[policy]
        losses = [run["losses"] for run in runs if run["policy"] == policy]
        window = max(1, len(losses[0]) // 25)
        box = np.ones(window) / window
        smooth = np.convolve(np.mean(losses, axis=0), box, "valid")
        steps = np.arange(len(smooth)) + (window + 1) / 2
        left.plot(steps, smooth, color=color, lw=width, label=policy)
    left.set_title(f"Training loss ({len(losses)} seeds, {window} steps: mean)")
    left.set(xlabel="step", ylabel="cross-entropy", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    left.legend()
    for axes in right:
        draw_scales(scales, axes)
    figure.savefig(path, dpi=120)


def draw_scales(samples: list[dict], axes: Axes) -> None:
    names = [name for name in samples[0] if name.endswith("/scale")]
    layers = list(dict.fromkeys(name.split("/")[-3] for name in names))
    for name in names:
        *_, layer, role, _ = name.split("/")
        axes.step(
            [sample["step"] for sample in samples],
            [sample[name] for sample in samples],
            where="post",
            color=f"C{recipes.ROLES.index(role)}",
            ls=("-", "--", ":")[layers.index(layer) % 3],
            label=f"{layer} {role}",
        )
    axes.set_title("Scales of mixed_float8, seed 0")
    axes.set_yscale("log", base=2)
    axes.set(xlabel="step", ylabel="factor before the cast to FP8")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=2)
