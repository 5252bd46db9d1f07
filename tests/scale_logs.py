"""Writes logs as `ScaleMonitor` does, of trainings that never were."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

ROLES = {"inputs": "E4M3", "kernel": "E4M3", "grads": "E5M2"}


def write(
    folder: pathlib.Path,
    layers: int = 6,
    samples: int = 30,
    every: int = 16,
    seed: int = 0,
    model: str = "gpt",
    statistics: bool = True,
) -> pathlib.Path:
    """Writes a log: underflow grows with depth, one layer is far too narrow.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{model}/block_{n // 2}/ffn_{n % 2}" for n in range(layers)]
    with open(folder / "scales.jsonl", "w", encoding="utf-8") as file:
        for at in range(samples):
            file.write(json.dumps(sample(names, at, every, rng, statistics)))
            file.write("\n")
    if statistics:
        about = {"model": model, "tfmp": "0.1.0", "tensorflow": "2.21.0"}
        about |= {"keras": "3.15.1", "started": 1.7e9, "every": every}
        tensors = {
            f"{name}/{role}": {"format": format, "scaling": "delayed"}
            for name in names
            for role, format in ROLES.items()
        }
        text = json.dumps({**about, "tensors": tensors})
        (folder / "run.json").write_text(text, encoding="utf-8")
    return folder


def sample(
    names: list[str], at: int, every: int, rng: Any, statistics: bool
) -> dict[str, Any]:
    """Returns one line of a log."""
    step, skipped = (at + 1) * every, int(at >= 3) + int(at >= 20)
    found: dict[str, Any] = {"step": step, "epoch": at // 10}
    found["time"] = 1.7e9 + step / 50
    if statistics:
        loss = 2.3 * np.exp(-at / 12) + 0.3 + 0.02 * rng.normal()
        found["logs"] = {"loss": float(loss), "accuracy": 1 - float(loss) / 3}
    found["loss_scale"] = 32768.0 / 2**skipped
    found["skipped_steps"] = found["overflow_count"] = skipped
    for depth, name in enumerate(names):
        for role in ROLES:
            amax = float(np.exp2(2 + 0.2 * rng.normal()))
            found[f"{name}/{role}/amax"] = amax
            found[f"{name}/{role}/scale"] = 64.0
            if statistics:
                low = depth / len(names)
                found |= {
                    f"{name}/{role}/{key}": value
                    for key, value in measures(role, low, amax, rng).items()
                }
    if statistics and at == 5:
        change = {"step": step - 3, "epoch": 0, "kind": "up"}
        change |= {"layer": names[0], "before": "mixed_float8"}
        change |= {"after": "mixed_bfloat16", "reason": f"of {names[0]}"}
        found["changes"] = [change]
    if statistics:
        found["histograms"] = {
            f"{name}/{role}": histogram(role, depth / len(names), rng)
            for depth, name in enumerate(names)
            for role in ROLES
        }
    return found


def measures(role: str, low: float, amax: float, rng: Any) -> dict[str, float]:
    """Returns the statistics of a tensor that is `low` in its format, 0..1."""
    gradient = role == "grads"
    underflow = 10 ** (-5 + 4.3 * low) * (1 + 0.3 * rng.random())
    clipped = 1e-4 * rng.random() ** 8 if role == "inputs" else 0.0
    return {
        "observed_amax": amax * 0.9,
        "underflow_share": float(underflow if gradient else underflow / 50),
        "saturation_share": float(clipped),
        "sqnr": float((25.6 if gradient else 31.5) - 6 * low + rng.normal()),
        "range_share": 0.4 + 0.5 * low,
        "lag": float(-0.5 + 0.3 * rng.normal()),
    }


def histogram(role: str, low: float, rng: Any) -> list[Any]:
    """Returns a histogram of log-normal values, lower for a larger `low`."""
    top, width = (12, 3.5) if role == "grads" else (6, 2.0)
    exponents = rng.normal(top - 5 - 22 * low * (role == "grads"), width, 4096)
    low_end, high_end = (-24, 17) if role == "grads" else (-16, 10)
    floors = np.clip(np.floor(exponents), low_end, high_end).astype(int)
    counts = np.bincount(floors - low_end, minlength=high_end - low_end + 1)
    return [low_end, counts.tolist()]
