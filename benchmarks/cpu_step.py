"""Times a training step of two Dense layers on this machine's CPU.

    python benchmarks/cpu_step.py

The program is 1024 -> 2048 (relu) -> 1024 on a batch of 512: loss and all
gradients, compiled by XLA.  All variants run interleaved in one process, so
that the ratios hold on a noisy machine.  Times are medians; a ratio is the
median of the rounds' ratios.
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

BATCH, WIDTH, HIDDEN = 512, 1024, 2048
VARIANTS = {
    "tfmp mixed_float8 (delayed)": (tfmp.layers.Dense, "mixed_float8", None),
    "tfmp mixed_float8 (current)": (
        tfmp.layers.Dense,
        "mixed_float8",
        "current",
    ),
    "keras float8": (keras.layers.Dense, "float8_from_mixed_bfloat16", None),
    "mixed_bfloat16": (keras.layers.Dense, "mixed_bfloat16", None),
    "float32": (keras.layers.Dense, "float32", None),
}


def make_model(variant: str) -> keras.Model:
    """Builds the two layers of a variant."""
    layer, name, recipe = VARIANTS[variant]
    policy = tfmp.Policy(name, recipe) if recipe else name
    return keras.Sequential(
        [
            keras.Input([WIDTH]),
            layer(HIDDEN, "relu", dtype=policy),
            layer(WIDTH, dtype=policy),
        ]
    )


def make_step(model: keras.Model, jit_compile: bool = True) -> tf.function:
    """Returns a function of (values, x, y): loss, gradients, FP8 state.

    The values are of all variables, those that are trained first.
    """
    trained = len(model.trainable_variables)
    every = [*model.trainable_variables, *model.non_trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def step(values: list, x: tf.Tensor, y: tf.Tensor) -> tuple:
        # The backward pass too has state: what FP8 observes.
        held = zip(every, values, strict=True)
        with keras.StatelessScope(held) as scope:
            with tf.GradientTape() as tape:
                tape.watch(values[:trained])
                error = tf.cast(model(x, training=True), tf.float32) - y
                loss = tf.reduce_mean(tf.square(error))
            gradients = tape.gradient(loss, values[:trained])
        state = [scope.get_current_value(v) for v in every[trained:]]
        return loss, gradients, state

    return step


def measure(rounds: int, jit_compile: bool) -> dict[str, np.ndarray]:
    """Returns the milliseconds of each round's step, by variant."""
    x, y = tf.random.normal([BATCH, WIDTH]), tf.random.normal([BATCH, WIDTH])
    calls = {}
    for variant in VARIANTS:
        model = make_model(variant)
        step = make_step(model, jit_compile)
        every = [*model.trainable_variables, *model.non_trainable_variables]
        values = [tf.convert_to_tensor(v) for v in every]
        calls[variant] = lambda s=step, v=values: s(v, x, y)[0].numpy()
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for index in range(rounds + 3):
        for variant, call in calls.items():
            start = time.perf_counter()
            call()
            if index >= 3:
                times[variant].append(time.perf_counter() - start)
    return {k: np.array(v) * 1e3 for k, v in times.items()}


def main() -> None:
    """Prints a table, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-jit", action="store_true")
    parser.add_argument("--json", help="also write the results here")
    args = parser.parse_args()
    rounds = measure(args.rounds, not args.no_jit)
    times = {k: float(np.median(v)) for k, v in rounds.items()}
    delayed = rounds["tfmp mixed_float8 (delayed)"]
    ratios = {k: float(np.median(delayed / v)) for k, v in rounds.items()}
    print(f"{'step':30} {'ms':>8}  tfmp delayed / this")
    for variant, value in times.items():
        print(f"{variant:30} {value:8.1f}  {ratios[variant]:.2f}")
    if args.json:
        result = {
            "program": f"{WIDTH}-{HIDDEN}-{WIDTH}, batch {BATCH}",
            "jit_compile": not args.no_jit,
            "rounds": args.rounds,
            "milliseconds": times,
            "tfmp_delayed_over_this": ratios,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "command": f"python benchmarks/cpu_step.py --rounds {args.rounds}",
        }
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
