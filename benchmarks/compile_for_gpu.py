"""Compiles StableHLO programs for an H200, without one, and counts products.

    python3 -m venv jax-env
    jax-env/bin/pip install jax==0.10.2 jax-cuda12-plugin==0.10.2
    export TFMP_JAX_PYTHON=$PWD/jax-env/bin/python
    python benchmarks/compile_for_gpu.py step.mlir [--json report.json]

Nothing is executed: this tells what would run in FP8, not how fast.  How it
is compiled is in `tfmp/_inspection/deviceless.py`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time

from tfmp._inspection import deviceless, hlo

TARGET = "h200"


def report(compiled: deviceless.Compiled) -> dict[str, object]:
    """Says what is left of a program."""
    program = hlo.Program(compiled.program)
    products = program.products()
    return {
        "products": [" x ".join(product.operands) for product in products],
        "products_fp8": sum(product.is_float8 for product in products),
        "kernels": program.kernels,
        "temporary_mib": round(compiled.temporary_bytes / 2**20, 1),
    }


def main() -> None:
    """Prints a line a program and mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="+", help="StableHLO text files")
    parser.add_argument("--json", help="also write the reports here")
    args = parser.parse_args()
    reports, version = {}, ""
    for path in args.programs:
        text = pathlib.Path(path).read_text()
        for mode, compiled in deviceless.compile_for(TARGET, text).items():
            row = reports[f"{path} ({mode})"] = report(compiled)
            version = compiled.jax
            print(
                f"{path} ({mode}): {row['products_fp8']} of "
                f"{len(row['products'])} products in FP8, {row['kernels']} "
                f"kernels, {row['temporary_mib']} MiB temporary"
            )
    if args.json:
        result = {
            "target": TARGET,
            "executed": False,
            "jax": version,
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["python", *sys.argv]),
            "programs": reports,
        }
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
