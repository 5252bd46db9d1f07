"""Means, deviations and differences: the table, and a line of a gallery."""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.harness.example import Example, Metric
from examples.harness.settings import BASELINE, POLICIES

Rows = dict[str, dict[str, Any]]

HEAD = ("policy", "vs bfloat16", "within", "step", "peak memory", "FP8")


def values(runs: list[dict], policy: str, key: str = "metric") -> np.ndarray:
    """Returns what the seeds of a policy have of a key, seeds first."""
    return np.array([run[key] for run in runs if run["policy"] == policy])


def deviation(found: np.ndarray) -> float | None:
    """The standard deviation over seeds; one seed has none."""
    return float(np.std(found, ddof=1)) if len(found) > 1 else None


def summarize(runs: list[dict]) -> Rows:
    """Returns a row for each policy, in the order of their first runs.

    `within` says whether the mean differs from bfloat16's by no more than
    bfloat16's own seeds deviate: None if that is not known.
    """
    rows: Rows = {}
    base = values(runs, BASELINE)
    spread = deviation(base)
    for policy in dict.fromkeys(run["policy"] for run in runs):
        own = [run for run in runs if run["policy"] == policy]
        found = values(runs, policy)
        apart = float(found.mean() - base.mean()) if len(base) else None
        judged = policy != BASELINE and spread is not None
        peaks = [run["peak_mib"] for run in own]
        rows[policy] = {
            "mean": float(found.mean()),
            "deviation": deviation(found),
            "difference": None if policy == BASELINE else apart,
            "within": abs(apart) <= spread if judged else None,
            "step_ms": float(np.median(values(runs, policy, "step_ms"))),
            "peak_mib": None if None in peaks else max(peaks),
            "skipped_steps": sum(run["skipped_steps"] for run in own),
            "products": own[0]["products"],
            "afterwards": _means([run["afterwards"] for run in own]),
        }
    return rows


def _means(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each number; of each text, that of the first seed."""
    return {
        name: first
        if first is None or isinstance(first, str)
        else float(np.mean([each[name] for each in found]))
        for name, first in found[0].items()
    }


def table(example: Example, rows: Rows) -> str:
    """Formats the rows, and below them what ran in which precision."""
    policy, *others = HEAD
    lines = [[policy, example.metric.name, *others]]
    for name, row in rows.items():
        made = row["products"]
        lines.append(
            [
                name,
                with_deviation(row, example.metric),
                difference(row, example.metric),
                yes_or_no(row["within"]),
                f"{row['step_ms']:.1f} ms",
                _or_dash(row["peak_mib"], "{:.0f} MiB"),
                f"{made['float8']} of {made['all']}",
            ]
        )
    said = _columns(lines)
    if others := _others(rows):
        said += ["", *_columns(others)]
    return "\n".join([*said, "", *precisions(rows)])


def precisions(rows: Rows) -> list[str]:
    """Says of each policy what a training step multiplies."""
    lines = ["Products of a training step:"]
    for name, row in rows.items():
        made = row["products"]
        text = ", ".join(f"{n} {t}" for t, n in made["by_types"].items())
        share = f"{made['float8_share']:.1%} of the FLOPs in FP8"
        lines += [
            f"{name:16}{text}",
            f"{'':16}{share}, {made['fallbacks']} fall-backs, "
            f"{row['skipped_steps']} steps skipped",
        ]
    return lines


def _others(rows: Rows) -> list[list[str]]:
    """What was measured afterwards: numbers only."""
    first = next(iter(rows.values()))["afterwards"]
    names = [k for k, value in first.items() if not isinstance(value, str)]
    if not names:
        return []
    lines = [
        [policy, *(_or_dash(row["afterwards"][x], "{:.4g}") for x in names)]
        for policy, row in rows.items()
    ]
    return [["policy", *names], *lines]


def with_deviation(row: dict[str, Any], metric: Metric) -> str:
    """Formats a mean, with the deviation if there is one."""
    spread = row["deviation"]
    text = f"{row['mean']:.{metric.digits}f}"
    text += "" if spread is None else f" ± {spread:.{metric.digits}f}"
    return f"{text} {metric.unit}".rstrip()


def difference(row: dict[str, Any], metric: Metric) -> str:
    """Formats the difference from bfloat16."""
    return _or_dash(row["difference"], f"{{:+.{metric.digits}f}}")


def yes_or_no(within: bool | None) -> str:
    """Formats whether a difference is within the deviation over seeds."""
    return {True: "yes", False: "no", None: "-"}[within]


def gallery(example: Example, rows: Rows) -> dict[str, str]:
    """Formats the rows as one line of the gallery's table, by column."""
    row = rows.get("mixed_float8", {"difference": None, "within": None})
    better = "higher" if example.metric.higher_is_better else "lower"
    return {
        "field": example.field,
        "metric": f"{example.metric.name}, {better} is better",
        **{
            name: with_deviation(rows[name], example.metric)
            if name in rows
            else "-"
            for name in POLICIES
        },
        "FP8 - bfloat16": difference(row, example.metric),
        "within": yes_or_no(row["within"]),
    }


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _columns(lines: list[list[str]]) -> list[str]:
    """Aligns cells: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
