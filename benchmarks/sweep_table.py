"""The table of `model_sweep.py` as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]
COLUMNS = {
    "layers in FP8, share": ("converts",),
    "FP8": ("values, tfmp, float8",),
    "bfloat16": ("values, tfmp, bfloat16",),
    "Keras' bfloat16": ("values, Keras, bfloat16",),
    "float16": ("values, tfmp, float16",),
    "Keras' float16": ("values, Keras, float16",),
    "trains in FP8": ("graph, float8", "XLA, float8"),
    "in bfloat16": ("graph, bfloat16", "XLA, bfloat16"),
    "in float16": ("graph, float16", "XLA, float16"),
    "file, revert": ("saves and loads", "reverts"),
    "LoRA": ("LoRA",),
    "export": ("exports",),
    "text": ("generates",),
}
NOT_KNOWN = "not known"
CAUSES = (
    "RetinaNet: the gradient of a convolution of 3 x 3 on one pixel, in "
    "bfloat16 on a CPU, has entries that TensorFlow never wrote.  It depends "
    "on what was in memory; it was seen with Keras alone too.",
    "Masked language models: their head adds a variable to a tensor.  Outside "
    "of a graph TensorFlow reads the variable without Keras' cast, and 16 bits "
    "do not go with 32; `fit` and `predict` run in a graph.",
    "T5, T5Gemma and RWKV7 in float16: the report of a conversion says why.",
    "Models of pictures that are made from noise: keras-hub has no training "
    "of them.",
)
SHOWN = ("converts", "values", "generates")


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the whole page: what ran it, the table, and each error."""
    every = results["rows"]
    tried = {name: row for name, row in every.items() if "cells" in row}
    failing = {name: row for name, row in tried.items() if errors(row)}
    ours = sum(_is_ours(row) for row in failing.values())
    quick = sum(bool(row.get("quick")) for row in tried.values())
    lines = [
        "# Every model, tried",
        "",
        f"Written by `python benchmarks/model_sweep.py`, {results['date']}, "
        f"tfmp {results['tfmp']}, Keras {results['keras']}, TensorFlow "
        f"{results['tensorflow']}: {len(tried)} models, "
        f"{len(tried) - len(failing)} without a fault, {ours} with one that is "
        f"tfmp's.  {quick} were tried by `--quick`: without FP8 or training.",
        "",
        "Values are outputs / gradients of a model with random weights in "
        "inference against float32, in dB, in FP8 and 16 bits by tfmp, and "
        "beside each of 16 bits by Keras' own policy.  ✓: it did; ✗ tfmp: it "
        "failed, and does not with Keras alone; ✗ Keras: it fails with Keras "
        "alone too; ✗ not known: the process was too slow, or crashed, and "
        "the rest was not tried.  Empty: not tried.  The errors are below.",
        "",
        *_table(tried),
        "",
        "## What fails",
        "",
        *_faults(failing),
        "",
        "What is known of it:",
        "",
        *(f"- {text}" for text in CAUSES),
        "",
        "## Not tried",
        "",
        *_not_tried(every),
    ]
    return "\n".join(lines) + "\n"


def errors(row: Row) -> list[str]:
    """Returns what failed, in words.

    >>> errors({"cells": {"XLA": {"error": "no", "fault": "tfmp"}}})
    ['XLA: no (tfmp)']
    """
    return [
        f"{name}: {cell['error']} ({cell.get('fault', 'Keras')})"
        for name, cell in row.get("cells", {}).items()
        if "error" in cell
    ]


def _is_ours(row: Row) -> bool:
    """Whether something fails that does not with Keras alone."""
    return any(x.get("fault") == "tfmp" for x in row["cells"].values())


def _table(tried: Mapping[str, Row]) -> Iterator[str]:
    head = ["model", *COLUMNS]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, row in tried.items():
        cells = [_text(row["cells"], names) for names in COLUMNS.values()]
        yield f"| {' | '.join([name, *cells])} |"


def _text(cells: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return ", ".join(
        _mark(name, cells[name]) for name in names if name in cells
    )


def _mark(name: str, cell: Mapping[str, Any]) -> str:
    """Returns what the table says of a cell."""
    if "error" in cell:
        return f"✗ {cell.get('fault', 'Keras').partition(',')[0]}"
    if name.startswith(SHOWN):
        return str(cell["found"])
    if cell["found"] is None:
        return ""
    mode = name.partition(",")[0]
    return f"✓ {mode}" if mode in ("graph", "XLA") else "✓"


def _faults(failing: Mapping[str, Row]) -> Iterator[str]:
    for name, row in failing.items():
        for text in errors(row):
            yield f"- {name}: {text.replace('|', '/')}"


def _not_tried(every: Mapping[str, Row]) -> Iterator[str]:
    notes: dict[str, list[str]] = {}
    for name, row in every.items():
        if "note" in row:
            notes.setdefault(row["note"], []).append(name)
    for note, names in notes.items():
        yield f"- {note}: {', '.join(names)}"
