"""Keeps what the examples have found: the page "What people train".

    python -m examples images
    python docs/gallery.py logs

copies the numbers and the picture of each example that wrote into `logs`, and
writes the page's tables anew; without a folder, only the tables.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
from typing import Any

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "examples"
IMAGES = ROOT / "docs" / "images"
PICTURE, COLORS = "gallery_{}.png", 32
POLICIES = ("float32", "mixed_float16", "mixed_bfloat16", "mixed_float8")


def keep(folder: pathlib.Path) -> list[str]:
    """Copies what the examples wrote; returns their names."""
    found = sorted(folder.glob("*/results.json"))
    for path in found:
        name = path.parent.name
        shutil.copyfile(path, RESULTS / f"{name}.json")
        with Image.open(path.with_name(f"{name}.png")) as picture:
            few = picture.convert("RGB").quantize(COLORS)
        few.save(IMAGES / PICTURE.format(name), optimize=True)
    return [path.parent.name for path in found]


def results() -> dict[str, dict[str, Any]]:
    """Returns what is kept, by example."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.glob("*.json"))
    }


def accuracy() -> list[list[str]]:
    """Metrics, with deviations over seeds."""
    head, rows = [], []
    for name, found in results().items():
        head = ["example", *found["gallery"]]
        rows.append([f"[{name}](#{name})", *found["gallery"].values()])
    return [head, *rows]


def cost() -> list[list[str]]:
    """Time of a step and peak memory, and what of a step is FP8."""
    head = ["example", *(f"{p}, ms, MiB" for p in POLICIES)]
    rows = []
    for name, found in results().items():
        table = found["table"]
        cells = [_cost(table[p]) if p in table else "-" for p in POLICIES]
        made = table["mixed_float8"]["products"]
        share = f"{made['float8']} of {made['all']}, "
        share += f"{made['float8_share']:.1%} of the FLOPs"
        rows.append([name, *cells, share])
    return [[*head, "products in FP8"], *rows]


def _cost(row: dict[str, Any]) -> str:
    peak = row["peak_mib"]
    memory = "-" if peak is None else f"{peak:,.0f}"
    return f"{row['step_ms']:.1f}, {memory}"


if __name__ == "__main__":
    import tables

    for each in sys.argv[1:]:
        print("kept:", *keep(pathlib.Path(each)))
    tables.fill()
