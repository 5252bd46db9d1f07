"""What is kept of a run: the machine, and a table."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import Any

import jax
import numpy as np

Rows = dict[str, dict[str, Any]]
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm"
COLUMNS = (
    f"{'program':16} {'precision':16} {'ms':>9} {'TFLOP/s':>8} {'speed':>6} "
    f"{'peak GiB':>8} {'compile s':>9}  loss"
)


def machine(device: jax.Device) -> dict[str, Any]:
    """Returns what ran the programs, as far as it says so."""
    found = {
        "device": device.device_kind,
        "platform": device.client.platform_version,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "memory_bytes": memory_limit(device),
    }
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"]
        said = subprocess.run(command, capture_output=True, text=True)
        found["nvidia-smi"] = said.stdout.splitlines()
    return found


def memory_limit(device: jax.Device) -> int | None:
    """Returns how many bytes JAX may use, None if it does not say."""
    return (device.memory_stats() or {}).get("bytes_limit")


def add_speeds(rows: Rows, baseline: str) -> None:
    """Adds to each row how often it runs while the baseline runs once."""
    once = rows.get(baseline, {}).get("milliseconds")
    for row in rows.values():
        if once and "milliseconds" in row:
            row["speed"] = once / row["milliseconds"]


def table(name: str, rows: Rows) -> str:
    """Returns the lines of a program."""
    return "\n".join(
        f"{name:16} {precision:16} {_said(row)}"
        for precision, row in rows.items()
    )


def _said(row: dict[str, Any]) -> str:
    for reason in ("error", "skipped"):
        if reason in row:
            return f"{reason}: {' '.join(row[reason].split())[:200]}"
    text = (
        f"{row['milliseconds']:9.3f} {row['tflops_per_second']:8.1f} "
        f"{row.get('speed', float('nan')):6.2f} "
    )
    if "peak_bytes" in row:
        text += (
            f"{row['peak_bytes'] / 2**30:8.2f} {row['compile_seconds']:9.1f}"
        )
    losses = row.get("losses")
    return text + (f"  {losses[0]:.4f} -> {losses[-1]:.4f}" if losses else "")
