"""Planted trouble: a training that stalls in pure FP8, and one that adapts.

    python benchmarks/adaptive_precision.py --json results.json

A dense network on the subset of Fashion-MNIST that comes with the examples,
with a column more: a serial number of about 2**20, for which the first layer
has a mask, so that it counts for nothing.  bfloat16 does not mind it.  In FP8
one scale is for the whole tensor, and all pixels beside such a number
underflow: what comes after the first layer sees its bias alone.

    always          the number is in all batches
    for a while     in the second and the third quarter of them
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfmp

sys.path.append(
    str(pathlib.Path(__file__).resolve().parent.parent / "examples")
)

import fashion_mnist_data

PRECISIONS = ("mixed_bfloat16", "mixed_float8", "adaptive")
SCENARIOS = {"always": (0.0, 1.0), "for a while": (0.25, 0.75)}
PIXELS, BATCH, PASSES = 28 * 28, 100, 5


@keras.saving.register_keras_serializable("benchmarks")
class WithoutLast(keras.constraints.Constraint):
    """Keeps the weights of the last input zero."""

    def __call__(self, w: keras.Variable) -> tf.Tensor:
        """Returns the kernel with its last row zero."""
        rows = keras.ops.ones([w.shape[0] - 1, 1], w.dtype)
        return w * keras.ops.concatenate([rows, 0 * rows[:1]])


def make(policy: str) -> keras.Model:
    """Returns the compiled model."""
    first = tfmp.layers.Dense(
        *(128, "relu"),
        kernel_constraint=WithoutLast(),
        dtype=policy,
        name="first",
    )
    others = [
        tfmp.layers.Dense(512, "relu", dtype=policy, name="second"),
        tfmp.layers.Dense(512, "relu", dtype=policy, name="third"),
        tfmp.layers.Dense(10, dtype=policy, name="head"),
    ]
    model = keras.Sequential(
        [keras.Input([PIXELS + 1]), first, *others], name="net"
    )
    first.kernel.assign(WithoutLast()(first.kernel))
    model.compile(
        tfmp.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(1e-3), initial_scale=1, dynamic=False
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


def data(
    scenario: str, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns all batches of a training, in order, and what to test on."""
    (images, labels), test = fashion_mnist_data.load(full=False)
    rng = np.random.default_rng(seed)
    order = [rng.permutation(len(images)) for _ in range(PASSES)]
    at = np.concatenate(order)
    start, end = (int(len(at) * share) for share in SCENARIOS[scenario])
    numbers = np.zeros([len(at)])
    numbers[start:end] = 2.0**20 + at[start:end]
    return (_with(images[at], numbers), labels[at]), (
        _with(test[0], np.zeros([len(test[0])])),
        test[1],
    )


def _with(images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    pixels = images.reshape([len(images), -1]).astype("float32") / 255
    return np.concatenate([pixels, numbers[:, None]], 1).astype("float32")


def train(precision: str, scenario: str, seed: int) -> dict[str, object]:
    """Trains once and returns what came of it."""
    keras.utils.set_random_seed(seed)
    adapts = precision == "adaptive"
    model = make("mixed_float8" if adapts else precision)
    callbacks = tfmp.callbacks
    adaptive = callbacks.AdaptivePrecision(
        every=8,
        rule=callbacks.PrecisionRule(quiet=8),
        rollback=callbacks.Rollback(keep_every=16),
    )
    (x, y), test = data(scenario, seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        history = model.fit(
            *(x, y, BATCH),
            verbose=0,
            shuffle=False,
            callbacks=[adaptive] if adapts else [],
        )
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(*test, 500, verbose=0)
    shares = [sample["float8_share"] for sample in adaptive.samples]
    pure = {"mixed_bfloat16": 0.0, "mixed_float8": 1.0}
    return {
        "accuracy": accuracy,
        "test loss": loss,
        "training loss": history.history["loss"][-1],
        "FP8 share of FLOPs": float(
            np.mean(shares) if adapts else pure[precision]
        ),
        "seconds": round(seconds, 1),
        "changes": [str(change) for change in adaptive.changes],
    }


def main() -> None:
    """Prints a table, and writes what it is made of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    results: dict[str, dict] = {}
    print("| trouble | precision | accuracy | test loss | in FP8 | changes |")
    print("|---|---|---|---|---|---|")
    for scenario in SCENARIOS:
        for precision in PRECISIONS:
            runs = [train(precision, scenario, s) for s in range(options.seeds)]
            results.setdefault(scenario, {})[precision] = runs
            accuracy, loss, share = (
                [run[name] for run in runs]
                for name in ("accuracy", "test loss", "FP8 share of FLOPs")
            )
            changes = sorted({len(run["changes"]) for run in runs})
            print(
                f"| {scenario} | {precision} | {np.mean(accuracy):.2%} ± "
                f"{np.std(accuracy):.2%} | {np.mean(loss):.3f} | "
                f"{np.mean(share):.0%} | {', '.join(map(str, changes))} |",
                flush=True,
            )
    if options.json:
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "command": "python benchmarks/adaptive_precision.py",
            "steps": PASSES * 100,
        }
        text = json.dumps({**about, "results": results}, indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
