"""Times the first step of a model's training, traced and compiled.

    python benchmarks/first_step.py [--rounds 5] [--workload gpt-10m]

Each first step is that of `fit` in a process of its own, and the precisions
take turns: what slows the machine for a while slows all of them.  XLA compiles
on all cores, so that `cpu` is the time of them together, which other programs
disturb less than `wall`.  `trace` is what is spent in Python.
"""

from __future__ import annotations

import time
from typing import Any

import measuring
import numpy as np
import training_steps
import workloads

PRECISIONS = ("tfmp delayed", "tfmp current", "mixed_bfloat16", "float32")
REFERENCES = ("mixed_bfloat16", "float32")


def first(name: str, precision: str, jit_compile: bool) -> dict[str, float]:
    """Returns the seconds of one first step, for a process of its own."""
    model, data = training_steps.built(name, precision, jit_compile)
    start = time.process_time()
    found = training_steps.first_step(model, data)
    return {
        "wall": found["first_step_seconds"],
        "trace": found["trace_seconds"],
        "cpu": time.process_time() - start,
    }


def rounds(args: Any) -> dict[str, dict[str, np.ndarray]]:
    """Returns the milliseconds of all rounds, by kind and precision."""
    rows = []
    for number in range(args.rounds):
        order = np.random.default_rng(number).permutation(args.precisions)
        row = {
            str(precision): measuring.in_fresh_process(
                first, args.workload, str(precision), not args.no_jit
            )
            for precision in order
        }
        rows.append(row)
        print(f"round {number + 1} of {args.rounds}", flush=True)
    return {
        kind: {
            precision: np.array([1e3 * row[precision][kind] for row in rows])
            for precision in args.precisions
        }
        for kind in ("wall", "cpu", "trace")
    }


def main() -> None:
    """Prints a table, and writes JSON if asked to."""
    parser = measuring.parser(__doc__, rounds=5)
    names, every = tuple(workloads.WORKLOADS), workloads.PRECISIONS
    parser.add_argument("--workload", choices=names, default="gpt-10m")
    parser.add_argument(
        "--precisions", nargs="+", choices=every, default=PRECISIONS
    )
    parser.add_argument("--no-jit", action="store_true")
    args = parser.parse_args()
    times = rounds(args)
    found = {
        kind: measuring.summary(own, REFERENCES) for kind, own in times.items()
    }
    facts = {"workload": args.workload, "rounds": args.rounds}
    measuring.write(args.out, {**facts, "first_step": found})
    for subject in args.precisions[:2]:
        print(measuring.table(found, args.precisions, [subject], REFERENCES))


if __name__ == "__main__":
    main()
