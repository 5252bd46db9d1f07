"""The picture of README.md: which matrix products of a step are in FP8.

    python docs/fp8_products.py

draws `docs/images/fp8_products.svg` from `benchmarks/results/gpu_steps.json`,
which `python -m benchmarks.gpu_steps --write` measures.  A test holds the file
against what this draws.
"""

from __future__ import annotations

import json
import pathlib
from html import escape
from typing import Any

HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "gpu_steps.json"
PICTURE = HERE / "images" / "fp8_products.svg"

ROWS = {  # as the results name them, and as the picture does
    "mixed_bfloat16": "mixed_bfloat16",
    "Keras float8": "Keras float8",
    "tfmp delayed": "tfmp mixed_float8",
}
MODES = {"triton": "Triton", "cublaslt": "cuBLASLt"}
FP8, OTHER, INK, FAINT = "#d95f0e", "#d9d9d9", "#222222", "#666666"
WIDTH, ROW, CELL, TOP = 780, 24, 15, 78  # in pixels
LEFT, KERNELS, MEMORY = 225, 660, 760  # where cells begin, columns end


def picture(results: dict[str, Any]) -> str:
    """Returns the picture of a Transformer layer as SVG.

    Args:
        results: what `benchmarks.gpu_steps` has written.
    """
    program = results["programs"]["layer"]
    lines = [
        text(10, 22, "Matrix products of one training step, in FP8 or not", 15),
        text(10, 41, f"{program['about']}; compiled for an H200", 12, FAINT),
        *legend(TOP - 14),
        text(KERNELS, TOP - 14, "kernels", 11, FAINT, "end"),
        text(MEMORY, TOP - 14, "temporary MiB", 11, FAINT, "end"),
    ]
    y = TOP
    for name, label in ROWS.items():
        for at, (mode, backend) in enumerate(MODES.items()):
            lines += row(
                y,
                "" if at else label,
                backend,
                program["precisions"][name][mode],
            )
            y += ROW
        y += 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
        f'height="{y}" font-family="sans-serif">'
    )
    back = f'<rect width="{WIDTH}" height="{y}" fill="white"/>'
    return "\n".join([head, back, *lines, "</svg>"]) + "\n"


def row(y: int, label: str, backend: str, found: dict[str, Any]) -> list[str]:
    """Returns one line: a cell for each product, and what else is known."""
    products, in_fp8 = found["products"], found["float8_products"]
    cells = [
        cell(LEFT + CELL * n, y, FP8 if n < in_fp8 else OTHER)
        for n in range(products)
    ]
    end = LEFT + CELL * products
    base = y + CELL - 3
    return [
        text(10, base, label, 13),
        text(LEFT - 10, base, backend, 11, FAINT, "end"),
        *cells,
        text(end + 6, base, str(in_fp8), 13, FP8 if in_fp8 else INK),
        text(KERNELS, base, str(found["kernels"]), 12, INK, "end"),
        text(MEMORY, base, f"{found['temporary_mib']:.0f}", 12, INK, "end"),
    ]


def legend(y: int) -> list[str]:
    """Returns what the two colors mean."""
    return [
        cell(LEFT, y - 10, FP8),
        text(LEFT + 17, y, "FP8", 11, FAINT),
        cell(LEFT + 55, y - 10, OTHER),
        text(LEFT + 72, y, "bfloat16", 11, FAINT),
    ]


def cell(x: int, y: int, color: str) -> str:
    """Returns one product.

    >>> cell(0, 2, "red")
    '<rect x="0" y="2" width="12" height="12" rx="2" fill="red"/>'
    """
    place = f'x="{x}" y="{y}" width="{CELL - 3}" height="{CELL - 3}"'
    return f'<rect {place} rx="2" fill="{color}"/>'


def text(
    x: int,
    y: int,
    words: str,
    size: int,
    color: str = INK,
    anchor: str = "start",
) -> str:
    """Returns one piece of text, its base line at `y`.

    >>> text(1, 2, "a > b", 3)[-16:]
    '>a &gt; b</text>'
    """
    place = f'x="{x}" y="{y}" font-size="{size}"'
    look = f'fill="{color}" text-anchor="{anchor}"'
    return f"<text {place} {look}>{escape(words)}</text>"


def main() -> None:
    """Draws the picture."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PICTURE.write_text(picture(results), encoding="utf-8")


if __name__ == "__main__":
    main()
