"""Runs exported programs on a GPU, and says how fast they are.

    python run.py FOLDER [NAME ...] [--steps N] [--out results.json]

`FOLDER` is what `export.py` wrote; it holds a `run.py` that starts this one.
JAX with CUDA and NumPy are needed; with PyTorch, products are compared with
`torch._scaled_mm`.  `--platform cpu` tries it out where there is no GPU.

The precisions of a program take turns, in blocks of steps, if their arrays fit
into the memory together.  Times are medians over the blocks.  TFLOP/s are the
FLOPs of the program's matrix products and convolutions, two a multiply-add,
over the time.  Peak memory is what XLA plans for a program, with its state.
Results are written after each program, so that none is lost with the next; one
that fails is reported, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

# JAX takes 75 % of the memory, if nothing is said before it is imported.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")

import jax

from benchmarks.gpu import measuring, reporting
from benchmarks.gpu.execution import Execution


def programs_in(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Returns manifests by program: the smallest one, and baselines, first."""
    found = {}
    for text in folder.glob("*.mlir.gz"):
        path = text.with_suffix("").with_suffix(".json")
        found[path] = json.loads(path.read_text())
    order = sorted(found, key=lambda path: (not found[path]["baseline"], path))
    programs: dict[str, list[pathlib.Path]] = {}
    for path in sorted(order, key=lambda path: found[path]["flops"]):
        programs.setdefault(found[path]["program"], []).append(path)
    return programs


def run_program(
    paths: list[pathlib.Path], device: jax.Device, args: argparse.Namespace
) -> reporting.Rows:
    """Runs all precisions of a program; returns what to report of each."""
    rows: reporting.Rows = {}
    ready = []
    for path in paths:
        try:
            ready.append(Execution(path, device))
        except Exception as error:
            rows[_precision(path)] = {"error": f"does not compile: {error}"}
    limit = reporting.memory_limit(device)
    for group in measuring.groups(ready, limit) if ready else []:
        rows |= _run(group, args)
    return rows


def _precision(path: pathlib.Path) -> str:
    return json.loads(path.read_text())["precision"]


def _run(group: list[Execution], args: argparse.Namespace) -> reporting.Rows:
    """Runs in turns; one after the other if that fails."""
    try:
        for each in group:
            each.start()
        times = measuring.measure(group, args.steps, args.seconds)
        return {
            each.manifest["precision"]: {
                **measuring.summary(each, found),
                "in_turns": len(group) > 1,
            }
            for each, found in zip(group, times, strict=True)
        }
    except Exception as error:
        if len(group) == 1:
            said = f"does not run: {error}"
            return {group[0].manifest["precision"]: {"error": said}}
    finally:
        for each in group:
            each.release()
    rows: reporting.Rows = {}
    for each in group:
        rows |= _run([each], args)
    return rows


def run_torch(paths: list[pathlib.Path], seconds: float) -> reporting.Rows:
    """Runs a program's products by PyTorch, in a process of its own."""
    manifest = json.loads(paths[0].read_text())
    if manifest["square"] is None:
        return {}
    script = pathlib.Path(__file__).with_name("scaled_mm.py")
    given = (*manifest["square"], measuring.BLOCKS, seconds)
    command = [sys.executable, str(script), *map(str, given)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        return {"torch._scaled_mm": {"skipped": last}}
    found = json.loads(ended.stdout)
    return {
        name: {
            "torch": found["torch"],
            **measuring.speed(manifest["flops"], times),
        }
        for name, times in found["milliseconds"].items()
    }


def main() -> int:
    """Runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*", help="default: all there are")
    parser.add_argument("--steps", type=int, default=50, help="at least")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="of a block, at least"
    )
    parser.add_argument("--platform", default="cuda", help="JAX's name of it")
    parser.add_argument("--out", type=pathlib.Path, help="JSON to write")
    args = parser.parse_args()
    programs = programs_in(args.folder)
    if unknown := sorted(set(args.names) - set(programs)):
        parser.error(f"unknown: {unknown}; there are: {list(programs)}")
    chosen = {
        k: v for k, v in programs.items() if k in (args.names or programs)
    }
    # Before JAX takes the memory.
    others = {k: run_torch(v, args.seconds) for k, v in chosen.items()}
    device = jax.devices(args.platform)[0]
    result: dict[str, Any] = {
        "machine": reporting.machine(device),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "programs": {},
    }
    print(reporting.COLUMNS)
    for name, paths in chosen.items():
        rows = run_program(paths, device, args) | others[name]
        reporting.add_speeds(rows, _precision(paths[0]))
        print(reporting.table(name, rows), flush=True)
        result["programs"][name] = rows
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")
    every = [
        row for rows in result["programs"].values() for row in rows.values()
    ]
    return int(any("error" in row for row in every))


if __name__ == "__main__":
    raise SystemExit(main())
