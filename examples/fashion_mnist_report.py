"""The table and the picture of a comparison of policies."""

from __future__ import annotations

import pathlib

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfmp import recipes

COLORS = {
    "float32": "0.5",
    "mixed_bfloat16": "tab:blue",
    "mixed_float16": "tab:green",
    "mixed_float8": "tab:red",
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
    """Draws the accuracy of each policy and, if FP8 is among them, its scales.

    Below the accuracies, with an axis of their own: the differences from
    float32 (from the first policy without it), which are too small to be seen
    beside what training gains.
    """
    scales = next((run["scales"] for run in runs if run["scales"]), [])
    figure = Figure(figsize=(12 if scales else 6, 4.8), layout="constrained")
    right = ["scales"] if scales else []
    axes = figure.subplot_mosaic([["accuracy", *right], ["difference", *right]])
    draw_accuracies(runs, axes["accuracy"])
    draw_differences(runs, axes["difference"])
    if scales:
        draw_scales(scales, axes["scales"])
    figure.savefig(path, dpi=120)


def accuracies_of(runs: list[dict], policy: str) -> npt.NDArray[np.float64]:
    """Returns test accuracies in percent, [seeds, epochs]."""
    found = [run["accuracies"] for run in runs if run["policy"] == policy]
    return np.array(found)


def draw_accuracies(runs: list[dict], axes: Axes) -> None:
    for policy in policies_of(runs):
        mean = accuracies_of(runs, policy).mean(axis=0)
        label, epochs = f"{policy}: {mean[-1]:.2f} %", 1 + np.arange(len(mean))
        axes.plot(epochs, mean, "o-", ms=3, color=COLORS[policy], label=label)
    axes.set_title("Test accuracy, mean of the seeds")
    axes.set(ylabel="%", xticks=epochs)
    axes.legend()


def draw_differences(runs: list[dict], axes: Axes) -> None:
    """Draws mean and range of what each seed gains or loses by a policy.

    The gray band is the range of the seeds of float32 around their mean: how
    far chance alone goes.
    """
    policies = policies_of(runs)
    base = "float32" if "float32" in policies else policies[0]
    reference = accuracies_of(runs, base)
    epochs = 1 + np.arange(reference.shape[1])
    around = reference - reference.mean(axis=0)
    band = around.min(axis=0), around.max(axis=0)
    axes.fill_between(epochs, *band, color="0.9")
    axes.axhline(0, color=COLORS[base], lw=1)
    others = [policy for policy in policies if policy != base]
    for at, policy in enumerate(others):
        gains = accuracies_of(runs, policy) - reference
        mean = gains.mean(axis=0)
        ranges = [mean - gains.min(axis=0), gains.max(axis=0) - mean]
        beside = epochs + 0.12 * (at - (len(others) - 1) / 2)
        color = COLORS[policy]
        axes.errorbar(beside, mean, ranges, fmt="o", ms=4, color=color)
    axes.set_title(
        f"Difference from {base}, seed by seed (gray: its own seeds)"
    )
    axes.set(xlabel="epoch", ylabel="points, mean and range", xticks=epochs)


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
