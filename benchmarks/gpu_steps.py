"""What an H200 would run of whole training steps, in every precision.

    export TFMP_JAX_PYTHON=jax-env/bin/python      # see compile_for_gpu.py
    python -m benchmarks.gpu_steps [PROGRAM ...]   # compiles, and says
    python -m benchmarks.gpu_steps --write         # also keeps the numbers
    python -m benchmarks.gpu_steps layer --table   # what is kept, as Markdown

A step is forward pass, loss and the gradients of all that is trained; the
optimizer is not in it.  It is compiled for an H200 that is not there, once with
Triton's and once with cuBLASLt's kernels, and nothing is executed.  Counted in
each of the two programs:

- products, those of FP8 factors, and their share of the FLOPs;
- their share of what is eligible: the FLOPs of the products that
  `tfmp.convert` hands to XLA in FP8 (for the precisions without `tfmp`, those
  of "tfmp delayed");
- kernels: fusions, library calls and copies; those above `mixed_bfloat16`'s
  are divided by the FP8 products;
- temporary memory: what is needed beside arguments and results, activations
  kept for the backward pass included, and its ratio to `mixed_bfloat16`'s.

"tfmp attention" is delayed scaling with FP8 scores and values, too.  Every
other precision keeps these in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import measuring
from benchmarks.gpu_workloads import (
    ATTENTION,
    BASE,
    DELAYED,
    PRECISIONS,
    PROGRAMS,
    Program,
    build,
    specs,
)
from tfmp._inspection import deviceless, hlo, inspected_steps, matching
from tfmp.conversion.sizes import Sizes

TARGET = "h200"
KEPT = pathlib.Path(__file__).parent / "results" / "gpu_steps.json"
COMMAND = "python -m benchmarks.gpu_steps --write"
HOW = {"command": COMMAND, "target": TARGET, "executed": False}
MOST_KERNELS, MOST_MEMORY = 3.0, 0.8


def step(program: Program, precision: str) -> inspected_steps.Step:
    """Returns the training step, traced."""
    keras.utils.clear_session()  # names of layers start anew
    model = build(program.workload, precision)
    return inspected_steps.of_model(model, tuple(specs(program)), Sizes(1, 1))


def counts(
    given: Sequence[hlo.Product], compiled: Mapping[str, deviceless.Compiled]
) -> dict[str, dict[str, Any]]:
    """Returns what is in each mode's program.

    Args:
        given: the products that XLA was given.
        compiled: what it made of them, by mode.
    """
    programs = {mode: hlo.Program(c.program) for mode, c in compiled.items()}
    fates = matching.fates(given, programs)
    return {
        mode: {
            **_products(program.products(), fates, mode),
            "kernels": program.kernels,
            "temporary_mib": round(compiled[mode].temporary_bytes / 2**20, 1),
            "jax": compiled[mode].jax,
        }
        for mode, program in programs.items()
    }


def _products(
    products: Sequence[hlo.Product], fates: Sequence[matching.Fate], mode: str
) -> dict[str, Any]:
    low = [product for product in products if product.is_float8]
    lost = [
        product
        for fate in fates
        if fate.given.is_float8
        for product in fate.compiled[mode]
        if not product.is_float8
    ]
    flops = [sum(p.flops for p in each) for each in (products, low, lost)]
    return {
        "products": len(products),
        "float8_products": len(low),
        "flops": flops[0],
        "float8_flops": flops[1],
        "eligible_flops": flops[1] + flops[2],
    }


def measure(program: Program, precision: str) -> dict[str, dict[str, Any]]:
    """Compiles a step in both modes, and returns what is in them."""
    traced = step(program, precision)
    given = hlo.Program(traced.for_accelerators("hlo")).products()
    text = traced.for_accelerators("stablehlo")
    return counts(given, deviceless.compile_for(TARGET, text))


def ratios(
    rows: Mapping[str, Mapping[str, Any]], precision: str, layers: int
) -> dict[str, dict[str, float]]:
    """Returns shares, and what is held against `mixed_bfloat16`, by mode.

    Without an FP8 product, the kernels above for one are NaN.

    Args:
        rows: the counts of a program, by precision and mode.
        precision: whose ratios.
        layers: of the program.
    """
    own = precision if precision.startswith("tfmp") else DELAYED
    found = {}
    for mode, row in rows[precision].items():
        base = rows[BASE][mode]
        low = row["float8_products"]
        above = row["kernels"] - base["kernels"]
        found[mode] = {
            "float8_share": row["float8_flops"] / row["flops"],
            "eligible_share": row["float8_flops"]
            / max(1, rows[own][mode]["eligible_flops"]),
            "kernels_a_layer": row["kernels"] / layers,
            "kernels_above": above / low if low else math.nan,
            "memory": row["temporary_mib"] / base["temporary_mib"],
        }
    return found


def shortfalls(name: str, rows: Mapping[str, Any], layers: int) -> list[str]:
    """Returns where a program misses what FP8 has to reach.

    All that is eligible in FP8, in both modes; of the Transformer layer also
    at most `MOST_KERNELS` above `mixed_bfloat16`'s for an FP8 product, and
    `MOST_MEMORY` of its temporary memory.
    """
    found = []
    for precision in (each for each in rows if each.startswith("tfmp")):
        for mode, ratio in ratios(rows, precision, layers).items():
            where = f"{name}, {precision}, {mode}"
            if ratio["eligible_share"] < 1:
                found.append(f"{where}: {ratio['eligible_share']:.2%} in FP8")
            if "layer" not in name:
                continue
            if ratio["kernels_above"] > MOST_KERNELS:
                above = f"{ratio['kernels_above']:.2f}"
                found.append(f"{where}: {above} kernels above a product")
            if ratio["memory"] > MOST_MEMORY:
                found.append(f"{where}: {ratio['memory']:.2f} of the memory")
    return found


def table(kept: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns Markdown: a table a program, both modes in a cell."""
    titles = (
        "precision | FP8 products | of the FLOPs | of the eligible "
        "| kernels | a layer | above, an FP8 product | temporary MiB | ratio"
    )
    lines = []
    for name in names:
        program = kept[name]
        lines += [program["about"] + ":", "", f"| {titles} |", 9 * "|---" + "|"]
        rows, layers = program["precisions"], program["layers"]
        lines += [f"| {_line(rows, each, layers)} |" for each in rows] + [""]
    return "\n".join(lines)


def _line(rows: Mapping[str, Any], precision: str, layers: int) -> str:
    row, ratio = rows[precision], ratios(rows, precision, layers)

    def both(found: Mapping[str, Any], key: str, shown: str) -> str:
        values = [found[mode][key] for mode in row]
        return " / ".join("-" if v != v else f"{v:{shown}}" for v in values)

    products = both(row, "float8_products", "d")
    most = max(each["products"] for each in row.values())
    cells = [
        precision,
        f"{products} of {most}",
        both(ratio, "float8_share", ".0%"),
        both(ratio, "eligible_share", ".0%"),
        both(row, "kernels", "d"),
        both(ratio, "kernels_a_layer", ".0f"),
        both(ratio, "kernels_above", ".2f"),
        both(row, "temporary_mib", ".0f"),
        both(ratio, "memory", ".2f"),
    ]
    return " | ".join(cells)


def main() -> int:
    """Compiles programs, or shows what is kept of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", help=f"of {list(PROGRAMS)}")
    parser.add_argument("--write", action="store_true", help="keep the numbers")
    parser.add_argument("--table", action="store_true", help="show those kept")
    args = parser.parse_args()
    kept = json.loads(KEPT.read_text())["programs"] if KEPT.exists() else {}
    names = args.programs or list(PROGRAMS)
    for name in [] if args.table else names:
        program = PROGRAMS[name]
        rows = {
            precision: measure(program, precision)
            for precision in PRECISIONS
            if program.attends or precision != ATTENTION
        }
        kept[name] = {
            "about": program.about,
            "layers": program.layers,
            "precisions": rows,
        }
        print(table(kept, [name]), flush=True)
        if args.write:
            ordered = {each: kept[each] for each in PROGRAMS if each in kept}
            measuring.write(str(KEPT), {**HOW, "programs": ordered})
    if args.table:
        print(table(kept, names))
    missed = [
        problem
        for name in names
        for problem in shortfalls(
            name, kept[name]["precisions"], kept[name]["layers"]
        )
    ]
    print("\n".join(missed) or "nothing is missed")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
