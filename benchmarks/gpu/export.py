"""Writes the programs of programs.py for a machine that has a GPU.

    python -m benchmarks.gpu.export FOLDER [NAME ...] [--platform cpu]

It needs TensorFlow and no GPU, and is run from the root of the repository;
gpt-774m takes about 20 GB of memory, with its optimizer, the others 10 at most.
`FOLDER` is then complete, a few megabytes:

    gpt-124m.tfmp-delayed.mlir.gz    the step, as StableHLO
    gpt-124m.tfmp-delayed.json       its arrays, and what of the results goes
                                     back into which argument
    run.py, benchmarks/gpu/*.py      what runs them

Carry it to a machine with an NVIDIA H100 or H200, JAX with CUDA and, for the
comparison with its `_scaled_mm`, PyTorch; neither TensorFlow nor a network is
needed there:

    python FOLDER/run.py FOLDER --out results.json

Arrays are not written but described, by a seed.  The model gets the same ones
before it is exported, so that `model.fit` starts where the program starts;
only tensors that a model has computed before, and that are long, differ.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import os
import pathlib
import shutil
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.gpu import programs, tracing, variants

CARRIED = (
    "arrays",
    "execution",
    "measuring",
    "reporting",
    "run",
    "scaled_mm",
)
START = '''\
"""Runs the programs beside it: `python run.py FOLDER`."""

from benchmarks.gpu import run

raise SystemExit(run.main())
'''


def write(
    folder: pathlib.Path,
    name: str,
    precision: str,
    variant: variants.Variant,
    platform: str,
) -> pathlib.Path:
    """Writes a program in one precision; returns the manifest's path."""
    program = programs.PROGRAMS[name]
    text, manifest = tracing.trace(variant, platform)
    path = folder / f"{name}.{precision.replace(' ', '-')}.json"
    packed = path.with_suffix(".mlir.gz")
    # No time in it: the same program is the same file.
    packed.write_bytes(gzip.compress(text.encode(), mtime=0))
    manifest = {
        "program": name,
        "precision": precision,
        "baseline": precision == program.precisions[0],
        "square": program.product,
        "text": packed.name,
        **manifest,
    }
    path.write_text(json.dumps(manifest) + "\n")
    return path


def carry(folder: pathlib.Path) -> None:
    """Puts into the folder what runs the programs."""
    here = pathlib.Path(__file__).parent
    inside = folder / "benchmarks" / "gpu"
    inside.mkdir(parents=True, exist_ok=True)
    for name in CARRIED:
        shutil.copy(here / f"{name}.py", inside)
    (folder / "run.py").write_text(START)


def main() -> None:
    """Exports the programs that are named, or all for a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument(
        "names", nargs="*", help="default: all but those for a CPU"
    )
    parser.add_argument("--platform", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    names = args.names or [
        name for name in programs.PROGRAMS if not name.startswith(programs.TINY)
    ]
    unknown = sorted(set(names) - set(programs.PROGRAMS))
    if unknown:
        parser.error(f"unknown: {unknown}; known: {list(programs.PROGRAMS)}")
    carry(args.folder)
    for name in names:
        program = programs.PROGRAMS[name]
        for precision in program.precisions:
            start = time.perf_counter()
            path = write(
                args.folder,
                name,
                precision,
                program.make(precision),
                args.platform,
            )
            gc.collect()  # a model of gigabytes
            said = json.loads(path.read_text())
            size = path.with_suffix(".mlir.gz").stat().st_size
            print(
                f"{path.stem}: {said['float8_products']} of "
                f"{said['products']} products in FP8, "
                f"{said['flops'] / 1e12:.3g} TFLOP, {size / 2**20:.2f} MiB, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
