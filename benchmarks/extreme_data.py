"""What extreme activations cost, recipe by recipe, in a real training step.

    python benchmarks/extreme_data.py --json results.json

One Dense layer of 64 to 64 on 256 rows; the optimizer keeps its scales, and
its weights stand still.  The inputs of step t are normal, times a magnitude
that depends on t.  Of each step: the share of inputs that the scale in use
saturates, the share of those not zero that it flushes to zero, and the
output's signal-to-quantization-noise ratio against float32.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfmp

STEPS, ROWS, WIDTH, USABLE = 60, 256, 64, 20.0  # dB
PATTERNS = {
    "steady": lambda t: 1.0,
    "tenfold a step, then steady": lambda t: 10.0 ** min(t - 20, 0),
    "a tenth a step, then steady": lambda t: 10.0 ** -min(t, 20),
    "collapses to zero for 20 steps": lambda t: float(not 20 <= t < 40),
    "1e-6 and 1e6 in turn": lambda t: 1e-6 if t % 2 else 1e6,
    "1e30 once, at step 20": lambda t: 1e30 if t == 20 else 1.0,
}
RECIPES = {
    "delayed": tfmp.recipes.DelayedScaling(),
    "delayed, margin 4": tfmp.recipes.DelayedScaling(margin=4),
    "delayed, most recent": tfmp.recipes.DelayedScaling(
        amax_compute_algo="most_recent"
    ),
    "delayed, current inputs": tfmp.recipes.DelayedScaling(current=("inputs",)),
    "current": tfmp.recipes.CurrentScaling(),
}


def scale_in_use(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """Returns the scale by which a step will quantize the layer's inputs."""
    recipe, target = layer.recipe, layer.recipe.format("inputs")
    amax = tfmp.ops.amax(x)
    if recipe.is_delayed("inputs"):
        seen = layer.amax[0]
        # Nothing was observed: the prior of `tfmp._core.scaling`.
        amax = tf.where(seen > 0, seen, 56.0)
    return tfmp.ops.compute_scale(amax, target, recipe.margin)


def measure(recipe: tfmp.recipes.Recipe, pattern: str) -> dict[str, object]:
    """Trains through a pattern; returns what each step lost."""
    keras.utils.set_random_seed(0)
    policy = tfmp.Policy("mixed_float8", recipe)
    layer = tfmp.layers.Dense(WIDTH, use_bias=False, dtype=policy)
    layer.build([None, WIDTH])
    optimizer = tfmp.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.0), 1.0, dynamic=False
    )
    optimizer.build(layer.trainable_variables)

    @tf.function(jit_compile=True)
    def step(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_mean(tf.cast(y, tf.float32))
        variables = layer.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return y

    rng, rows = np.random.default_rng(0), []
    for t in range(STEPS):
        normal = rng.normal(size=[ROWS, WIDTH])
        x = tf.constant(normal * PATTERNS[pattern](t), tf.bfloat16)
        scale = scale_in_use(layer, x)
        target = recipe.format("inputs")
        shares = [
            float(share(x, scale, target))
            for share in (tfmp.ops.saturation_share, tfmp.ops.underflow_share)
        ]
        exact = tf.cast(x, tf.float32) @ tf.convert_to_tensor(layer.kernel)
        y = tf.cast(step(x), tf.float32)
        # Scaled, so that the squares of 1e30 are finite; zeros tell nothing.
        unit = tf.maximum(tf.reduce_max(tf.abs(exact)), 1e-38)
        zero = not np.any(exact)
        db = None if zero else float(tfmp.ops.sqnr(exact / unit, y / unit))
        rows.append([*shares, db])
    return summary(rows, int(optimizer.skipped_steps))


def summary(rows: list[list], skipped: int) -> dict[str, object]:
    """Returns what the steps of one run come to."""
    saturated, flushed, ratios = zip(*rows, strict=True)
    known = [db for db in ratios if db is not None]
    return {
        "saturated, worst": max(saturated),
        "flushed, worst": max(flushed),
        "dB, worst": min(known),
        "dB, median": float(np.median(known)),
        "steps below 20 dB": sum(db < USABLE for db in known),
        "skipped": skipped,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    results: dict[str, dict] = {}
    print("| inputs | recipe | saturated | flushed | worst, median | < 20 dB |")
    print("|---|---|---|---|---|---|")
    for pattern in PATTERNS:
        for name, recipe in RECIPES.items():
            found = measure(recipe, pattern)
            results.setdefault(pattern, {})[name] = found
            print(
                f"| {pattern} | {name} | {found['saturated, worst']:.0%} "
                f"| {found['flushed, worst']:.0%} | {found['dB, worst']:.0f}, "
                f"{found['dB, median']:.0f} dB "
                f"| {found['steps below 20 dB']} |",
                flush=True,
            )
    if options.json:
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "command": "python benchmarks/extreme_data.py",
            "steps": STEPS,
        }
        text = json.dumps({**about, "results": results}, indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
