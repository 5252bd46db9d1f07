"""Times the steps that `ScaleMonitor` samples against those that it does not.

    python benchmarks/sampled_step_cost.py

In one `fit` every other step is sampled: measured, read and kept.  Each is
compared with the step before it, so that what slows the machine slows both;
the numbers are medians over all pairs.  A sample of every step costs what is
said here, one of every 16th step a sixteenth of that.

The programs are classifiers under `mixed_float8` with Adam and loss scaling,
compiled by XLA and not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfmp

PROGRAMS = {  # widths of inputs and layers, batch
    "784-512-512-10, batch 128": ((784, 512, 512, 10), 128),
    "1024-2048-1024, batch 512": ((1024, 2048, 1024), 512),
}
WARM_UP = 8  # steps; the first two compile


class Stopwatch(keras.callbacks.Callback):
    """Notes when each step ends; put it behind the monitor."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())


def make_model(widths: tuple[int, ...], jit_compile: bool) -> keras.Model:
    """Builds and compiles a classifier."""
    first, *inner, last = widths
    hidden = [
        tfmp.layers.Dense(width, "relu", dtype="mixed_float8")
        for width in inner
    ]
    head = tfmp.layers.Dense(last, dtype="mixed_float8")
    model = keras.Sequential([keras.Input([first]), *hidden, head])
    model.compile(
        tfmp.optimizers.LossScaleOptimizer("adam"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


def measure(
    widths: tuple[int, ...], batch: int, steps: int, **options: Any
) -> dict[str, float]:
    """Returns milliseconds of a step, and the cost of a sample in percent."""
    jit_compile = options.pop("jit_compile")
    model, watch = make_model(widths, jit_compile), Stopwatch()
    monitor = tfmp.callbacks.ScaleMonitor(every=2, **options)
    x = np.random.normal(size=[batch * steps, widths[0]]).astype("float32")
    y = np.random.randint(widths[-1], size=[batch * steps])
    model.fit(x, y, batch, verbose=0, callbacks=[monitor, watch])
    seconds = np.diff(watch.ends)[WARM_UP:-2]
    # The first of these is the end of step WARM_UP + 2: a sampled one.
    sampled, plain = seconds[2::2], seconds[1:-1:2]
    ratios = sampled / plain[: len(sampled)]
    return {
        "milliseconds": float(np.median(plain)) * 1e3,
        "percent": (float(np.median(ratios)) - 1) * 100,
    }


def main() -> None:
    """Prints a table, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", help="also write the results here")
    args = parser.parse_args()
    rows = {}
    print(f"{'program':36} {'sampled':26} {'ms':>7} {'more':>7}")
    for name, (widths, batch) in PROGRAMS.items():
        for jit_compile in (False, True):
            program = f"{name}{', XLA' if jit_compile else ''}"
            for label, options in (
                ("", {}),
                ("statistics=False", {"statistics": False}),
            ):
                row = measure(
                    widths,
                    batch,
                    args.steps,
                    jit_compile=jit_compile,
                    **options,
                )
                rows[f"{program} {label}".strip()] = row
                print(
                    f"{program:36} {label:26} {row['milliseconds']:7.2f}"
                    f" {row['percent']:6.1f}%",
                    flush=True,
                )
    if args.json:
        result = {
            "steps": args.steps,
            "programs": rows,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["python", *sys.argv]),
        }
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
