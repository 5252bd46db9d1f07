"""Holds what an H200 would run in FP8 against the reports that are kept.

    export TFMP_JAX_PYTHON=jax-env/bin/python     # see compile_for_gpu.py
    python benchmarks/gpu_programs.py --check     # what CI does
    python benchmarks/gpu_programs.py --write     # keeps new reports

Seven programs are compiled for an H200 that is not there, with Triton's and
with cuBLASLt's kernels: two dense layers, an einsum with batch axes, an
attention block by two recipes and with unit scaling, a convolution block, and a
whole training step with optimizer and loss scaling.  `--check` fails if a
product that was in FP8 is not, or if there is a fall-back or a kernel that was
not.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cpu_step
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfmp
from tfmp import unit_scaling

TARGET = "h200"
KEPT = pathlib.Path(__file__).parent / "results" / "gpu_programs.json"
WIDTH, LENGTH, BATCH = 256, 128, 8


def dense() -> tfmp.Inspection:
    """Two dense layers, 1024 -> 2048 -> 1024, on a batch of 512."""
    model = cpu_step.make_model("tfmp mixed_float8 (delayed)")
    return tfmp.inspect(model, target=TARGET, batch_size=cpu_step.BATCH)


def einsum() -> tfmp.Inspection:
    """A mixture of experts: one product an expert, and its gradients."""

    def experts(tokens: tf.Tensor, kernels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([tokens, kernels])
            y = tfmp.ops.einsum("etd,edf->etf", tokens, kernels)
            loss = tf.reduce_sum(tf.square(tf.cast(y, tf.float32)))
        return tape.gradient(loss, [tokens, kernels])

    tokens = tf.TensorSpec([BATCH, LENGTH, WIDTH], tf.bfloat16)
    kernels = tf.TensorSpec([BATCH, WIDTH, 4 * WIDTH], tf.float32)
    return tfmp.inspect(experts, tokens, kernels, target=TARGET)


def attention() -> tfmp.Inspection:
    """A pre-norm block: attention, also its scores in FP8, and an MLP."""
    return attention_by(tfmp.recipes.DelayedScaling(attention=True))


def static_attention() -> tfmp.Inspection:
    """The same with constant scales: no amax is looked for."""
    return attention_by(tfmp.recipes.StaticScaling(attention=True))


def attention_by(recipe: tfmp.recipes.Recipe) -> tfmp.Inspection:
    """Returns what is made of the block by a recipe."""
    inputs = keras.Input([LENGTH, WIDTH])
    y = layers.LayerNormalization()(inputs)
    y = layers.MultiHeadAttention(4, WIDTH // 4, name="attention")(y, y)
    x = layers.add([inputs, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * WIDTH, "gelu", name="up")(y)
    x = layers.add([x, layers.Dense(WIDTH, name="down")(y)])
    model = keras.Model(inputs, x, name="block")
    tfmp.convert(model, tfmp.Policy("mixed_float8", recipe), "all")
    return tfmp.inspect(model, target=TARGET, batch_size=BATCH)


def unit_attention() -> tfmp.Inspection:
    """The same block with unit scaling, by the static recipe."""
    recipe = tfmp.recipes.StaticScaling(attention=True)
    with tfmp.policy_scope(tfmp.Policy("mixed_float8", recipe)):
        inputs = keras.Input([LENGTH, WIDTH])
        y, skip = unit_scaling.ResidualSplit()(inputs)
        y = layers.LayerNormalization()(y)
        attention = unit_scaling.MultiHeadAttention(
            4, WIDTH // 4, name="attention"
        )
        x = unit_scaling.ResidualAdd()([attention(y, y), skip])
        y, skip = unit_scaling.ResidualSplit()(x)
        y = layers.LayerNormalization()(y)
        y = unit_scaling.Dense(4 * WIDTH, "gelu", name="up")(y)
        y = unit_scaling.Dense(WIDTH, name="down")(y)
        x = unit_scaling.ResidualAdd()([y, skip])
    model = keras.Model(inputs, x, name="block")
    return tfmp.inspect(model, target=TARGET, batch_size=BATCH)


def convolution() -> tfmp.Inspection:
    """A bottleneck of ResNet-50 on images of 16 x 16; one more, upsampled."""
    inputs = keras.Input([16, 16, 256])
    x = inputs
    for filters, size in ((64, 1), (64, 3), (256, 1)):
        x = layers.Conv2D(filters, size, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.UpSampling2D()(layers.add([x, inputs]))
    x = layers.Conv2D(64, 3, padding="same", name="upsampled")(x)
    model = keras.Model(inputs, x, name="bottleneck")
    tfmp.convert(model, "mixed_float8", "all")
    return tfmp.inspect(model, target=TARGET)


def training_step() -> tfmp.Inspection:
    """Keras' own `train_step`: loss scaling, Adam and FP8 state included."""
    dense = tfmp.layers.Dense
    model = keras.Sequential(
        [
            keras.Input([WIDTH]),
            dense(4 * WIDTH, "relu", dtype="mixed_float8"),
            dense(16, dtype="mixed_float8"),
        ]
    )
    model.compile(
        tfmp.optimizers.LossScaleOptimizer("adam"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, y = np.zeros([LENGTH, WIDTH], "float32"), np.zeros([LENGTH], "int32")
    model.train_on_batch(x, y)  # creates the state of optimizer and metrics
    step = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
    return tfmp.inspect(step, x, y, target=TARGET)


PROGRAMS: dict[str, Callable[[], tfmp.Inspection]] = {
    f.__name__: f
    for f in (
        dense,
        einsum,
        attention,
        static_attention,
        unit_attention,
        convolution,
        training_step,
    )
}


def in_float8(report: dict[str, Any]) -> collections.Counter[tuple[str, ...]]:
    """Returns the products of a report in FP8: layer, product and size."""
    return collections.Counter(
        (row["layer"], row["product"], row["size"])
        for row in report["products"]
        if row["float8"]
    )


def losses(kept: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Returns what is worse in a report than in the one that is kept."""
    lost = in_float8(kept) - in_float8(found)
    problems = [f"not in FP8: {' '.join(key)}" for key in lost.elements()]
    if found["fallbacks"] > kept["fallbacks"]:
        problems.append(f"{found['fallbacks']} fall-backs")
    if found["float8_share"] < kept["float8_share"] - 1e-6:
        problems.append(
            f"FP8 has {found['float8_share']:.2%} of the FLOPs, and had "
            f"{kept['float8_share']:.2%}"
        )
    for mode, count in found["kernels"].items():
        if count > kept["kernels"][mode]:
            had = kept["kernels"][mode]
            problems.append(f"{count} kernels with {mode}, and had {had}")
    return problems


def main() -> int:
    """Compiles the programs, and checks or keeps the reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", help="default: all")
    parser.add_argument("--check", action="store_true", help="fail on a loss")
    parser.add_argument("--write", action="store_true", help="keep the reports")
    args = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    problems = []
    for name in args.programs or PROGRAMS:
        keras.utils.clear_session()  # names of layers start anew
        report = PROGRAMS[name]()
        print(f"== {name}\n{report}\n", flush=True)
        found = report.to_dict()
        if args.check:
            problems += [f"{name}: {p}" for p in losses(kept[name], found)]
        kept[name] = found
    if args.write:
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(problems) or "nothing is lost" if args.check else "")
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
