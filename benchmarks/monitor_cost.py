"""Times a training step with and without the callbacks of tfmp.

    python benchmarks/monitor_cost.py

The program is `fit` of a 784-512-512-10 classifier on batches of 128, under
`mixed_float8` with Adam and loss scaling.  All variants run in turn, an epoch
each, within one `fit`; times are those of each variant's fastest epoch.
"inside" is the time spent in the callback itself, a median, which holds on a
noisy machine where the difference of two times does not; what a measured step
itself takes longer is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfmp
from tfmp.callbacks import ScaleMonitor, TerminateOnOverflow

BATCH, WIDTHS, CLASSES = 128, (784, 512, 512), 10
NONE = "no callback"


class InTurn(keras.callbacks.Callback):
    """Hands each epoch to the next of several callbacks, and times both.

    Attributes:
        epochs: seconds of each epoch, by callback.
        inside: seconds of these spent in the callback.
    """

    def __init__(self, variants: dict[str, keras.callbacks.Callback]) -> None:
        super().__init__()
        self.variants = variants
        self.epochs: dict[str, list[float]] = {name: [] for name in variants}
        self.inside: dict[str, list[float]] = {name: [] for name in variants}

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        for callback in self.variants.values():
            callback.set_model(model)

    def set_params(self, params: dict) -> None:
        super().set_params(params)
        for callback in self.variants.values():
            callback.set_params(params)

    def on_train_begin(self, logs: Any = None) -> None:
        for callback in self.variants.values():
            callback.on_train_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        for callback in self.variants.values():
            callback.on_train_end(logs)

    def _timed(self, call: Callable, *args: Any) -> None:
        start = time.perf_counter()
        call(*args)
        self.spent += time.perf_counter() - start

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.name = list(self.variants)[epoch % len(self.variants)]
        self.callback = self.variants[self.name]
        self.spent, self.start = 0.0, time.perf_counter()
        self._timed(self.callback.on_epoch_begin, epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._timed(self.callback.on_train_batch_begin, batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._timed(self.callback.on_train_batch_end, batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._timed(self.callback.on_epoch_end, epoch, logs)
        seconds = time.perf_counter() - self.start
        self.epochs[self.name].append(seconds)
        self.inside[self.name].append(self.spent)

    def share(self, name: str) -> float:
        """Returns the median of (time inside / time outside) of an epoch."""
        inside = np.array(self.inside[name][2:])
        return float(np.median(inside / (self.epochs[name][2:] - inside)))


def make_model(jit_compile: bool) -> keras.Model:
    """Builds and compiles the classifier."""
    dense = [
        tfmp.layers.Dense(width, "relu", dtype="mixed_float8")
        for width in WIDTHS[1:]
    ]
    last = tfmp.layers.Dense(CLASSES, dtype="mixed_float8")
    model = keras.Sequential([keras.Input([WIDTHS[0]]), *dense, last])
    model.compile(
        tfmp.optimizers.LossScaleOptimizer("adam"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


def measure(rounds: int, steps: int, jit_compile: bool) -> dict[str, Any]:
    """Returns milliseconds a step and the shares in percent, by variant."""
    x = np.random.normal(size=[BATCH * steps, WIDTHS[0]]).astype("float32")
    y = np.random.randint(CLASSES, size=[BATCH * steps])
    with tempfile.TemporaryDirectory() as folder:
        turns = InTurn(
            {
                NONE: keras.callbacks.Callback(),
                "ScaleMonitor()": ScaleMonitor(),
                "ScaleMonitor(log_dir)": ScaleMonitor(folder),
                "ScaleMonitor(every=1)": ScaleMonitor(every=1),
                "  without statistics": ScaleMonitor(every=1, statistics=False),
                "  elements=None": ScaleMonitor(every=1, elements=None),
                "TerminateOnOverflow()": TerminateOnOverflow(),
            }
        )
        make_model(jit_compile).fit(
            x,
            y,
            BATCH,
            epochs=(rounds + 2) * len(turns.variants),
            verbose=0,
            callbacks=[turns],
        )
    fastest = {name: min(times[2:]) for name, times in turns.epochs.items()}
    middle = {n: np.median(times[2:]) for n, times in turns.epochs.items()}
    return {
        name: {
            "milliseconds": fastest[name] / steps * 1e3,
            "percent": (fastest[name] / fastest[NONE] - 1) * 100,
            "percent_of_medians": (middle[name] / middle[NONE] - 1) * 100,
            "percent_inside": turns.share(name) * 100,
        }
        for name in turns.variants
    }


def main() -> None:
    """Prints a table, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=32, help="of an epoch")
    parser.add_argument("--jit", action="store_true", help="compile the step")
    parser.add_argument("--json", help="also write the results here")
    args = parser.parse_args()
    results = measure(args.rounds, args.steps, args.jit)
    print(f"{'step':24} {'ms':>8} {'more':>8} {'median':>8} {'inside':>8}")
    for name, row in results.items():
        print(
            f"{name:24} {row['milliseconds']:8.2f} {row['percent']:7.2f}%"
            f" {row['percent_of_medians']:7.2f}%"
            f" {row['percent_inside']:7.2f}%"
        )
    if args.json:
        widths = "-".join(str(width) for width in (*WIDTHS, CLASSES))
        result = {
            "program": f"{widths}, batch {BATCH}, {args.steps} steps an epoch",
            "jit_compile": args.jit,
            "variants": results,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "command": "python benchmarks/monitor_cost.py",
        }
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
