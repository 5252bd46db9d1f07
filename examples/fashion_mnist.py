"""Fashion-MNIST in four precisions: accuracy, step time and every FP8 scale.

    python examples/fashion_mnist.py           # the shipped subset, a minute
    python examples/fashion_mnist.py --full    # all 70,000 images

A dense network trains under each policy; a seed gives all of them the same
initial weights and the same batches.  At the end: a table, also of what ran in
which precision, and in --output a picture and all numbers; see README.md.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import re
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fashion_mnist_data as data
import fashion_mnist_report as report
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import tfmp
from tfmp import callbacks, hardware, recipes

XLA_TYPES = {"f8E4M3FN": "E4M3", "f8E5M2": "E5M2"}
DOT = r"stablehlo\.dot.* : \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)"

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_list(
        "policies", list(report.COLORS), "Of these, in this order."
    )
    flags.DEFINE_integer("seeds", 3, "Runs of each policy.", lower_bound=1)
    flags.DEFINE_integer("epochs", 5, "Epochs of each run.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 1e-3, "At the start; falls to zero.")
    flags.DEFINE_bool("full", False, "All 70,000 images, not the subset.")
    flags.DEFINE_string("data_dir", None, "Folder of all images; with --full.")
    flags.DEFINE_string("output", "logs/fashion_mnist", "Folder to write to.")
    flags.DEFINE_bool("jit_compile", True, "Compile the model with XLA.")
    flags.register_validator(
        "policies",
        lambda names: 0 < len(names) == len(set(names) & report.COLORS.keys()),
        f"must be different names out of {','.join(report.COLORS)}",
    )
    flags.register_validator(
        "learning_rate", lambda rate: 0 < rate < 1, "must be between 0 and 1"
    )


def make_model() -> keras.Model:
    """Builds the network under the global policy.

    The last layer is Keras' own: it computes in bfloat16 under mixed_float8,
    as is usual for the layer that makes the logits.
    """
    return keras.Sequential(
        [
            keras.Input([28, 28]),
            keras.layers.Flatten(),
            tfmp.layers.Dense(512, "relu", name="hidden_1"),
            tfmp.layers.Dense(512, "relu", name="hidden_2"),
            keras.layers.Dense(10, name="logits"),
            keras.layers.Activation("linear", dtype="float32", name="float32"),
        ]
    )


def make_optimizer(policy: str, steps: int) -> keras.optimizers.Optimizer:
    """Adam, in the wrapper that the policy needs.

    float16 has its loss scaled; FP8 has its amax windows kept there.
    """
    rate = keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps)
    adam = keras.optimizers.Adam(rate)
    if policy == "float32":
        return adam
    if policy == "mixed_float16":
        return tfmp.optimizers.LossScaleOptimizer(adam)
    return tfmp.optimizers.LossScaleOptimizer(
        adam, initial_scale=1.0, dynamic=False
    )


class StepLog(keras.callbacks.Callback):
    """Keeps the seconds and the loss of every step.

    Keras reports the mean of an epoch's steps so far, hence the difference.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.start)
        total = (batch + 1) * logs["loss"]
        self.losses.append(total - self.total if batch else total)
        self.total = total


def precisions(model: keras.Model) -> dict[str, str]:
    """Says for each layer with variables what it computes in and keeps.

    Of an FP8 layer: the operands of output, input and kernel gradient.
    """
    found = {}
    for layer in filter(lambda layer: layer.weights, model.layers):
        text, recipe = layer.compute_dtype, getattr(layer, "recipe", None)
        if recipe:
            text = ", ".join(
                "x".join(recipe.format(role).name for role in operands)
                if recipe.in_float8(product)
                else layer.compute_dtype
                for product, operands in recipes.OPERANDS.items()
            )
        found[layer.name] = f"{text}; {layer.variable_dtype} variables"
    return found


def products(model: keras.Model, batch_size: int) -> dict[str, int]:
    """Counts the matrix products of a training step by operand types.

    It reads the program that TensorFlow gives to XLA, and leaves out what
    nothing uses there: the gradient of the images.
    """

    @tf.function(jit_compile=True)
    def step(trainable: list, others: list, x: tf.Tensor, y: tf.Tensor) -> list:
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            logits, _ = model.stateless_call(trainable, others, x, True)
            loss = tf.reduce_mean(model.loss(y, logits))
        return tape.gradient(loss, trainable)

    variables = [
        [tf.convert_to_tensor(v) for v in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    images = tf.zeros([batch_size, *model.input_shape[1:]])
    batch = images, tf.zeros([batch_size], tf.int64)
    program = step.experimental_get_compiler_ir(*variables, *batch)
    # As a GPU gets it: a CPU multiplies FP8 operands as bfloat16.
    text = program(stage="stablehlo", platform_name="GPU")
    *inner, main = text.split("func.func ")[1:]
    dots = {re.search(r"@([\w.]+)", f)[1]: re.findall(DOT, f) for f in inner}
    found, used = [], set()
    for line in reversed(main.splitlines()):
        made = re.match(r"\s*(%\w+)", line)
        if made is None or made[1] in used:
            used.update(re.findall(r"%\w+", line))
            called = re.search(r" = call @([\w.]+)\(", line)
            found += dots[called[1]] if called else re.findall(DOT, line)
    names = ("x".join(XLA_TYPES.get(t, t) for t in pair) for pair in found)
    return dict(collections.Counter(names))


def train(policy: str, seed: int, splits: tuple) -> dict:
    """Trains and tests one network; returns what it has shown."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    train_set = data.dataset(*splits[0], FLAGS.batch_size, seed, True)
    test_set = data.dataset(*splits[1], 1000, seed, False)
    steps = FLAGS.epochs * len(train_set)
    with tfmp.policy_scope(policy, convert=False):
        model = make_model()
    model.compile(
        make_optimizer(policy, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=FLAGS.jit_compile,
    )
    log, extra = StepLog(), []
    monitor = callbacks.ScaleMonitor(every=max(1, steps // 100))
    if policy == "mixed_float8" and seed == 0:
        extra = [monitor]  # compiles a second program: one run tells enough
    history = model.fit(
        train_set,
        epochs=FLAGS.epochs,
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=[log, *extra],
        shuffle=False,  # train_set is shuffled already.
        validation_data=test_set,
    ).history
    accuracies = [100 * value for value in history["val_accuracy"]]
    # The first step compiles; the whole first epoch is warm-up if it can be.
    warm_up = len(train_set) if FLAGS.epochs > 1 else 1
    return {
        "policy": policy,
        "seed": seed,
        "test_accuracy": accuracies[-1],
        "step_ms": 1000 * np.median(log.seconds[warm_up:] or log.seconds),
        "skipped_steps": int(getattr(model.optimizer, "skipped_steps", 0)),
        "layers": precisions(model),
        "products": products(model, FLAGS.batch_size),
        "accuracies": accuracies,
        "losses": log.losses,
        "scales": monitor.samples,
    }


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Flags only, please. Received: {argv[1:]}")
    output = pathlib.Path(FLAGS.output)
    try:
        splits = data.load(FLAGS.full, FLAGS.data_dir)
        data.dataset(*splits[0], FLAGS.batch_size, 0, True)
        output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise app.UsageError(str(error)) from error
    plan = [(p, s) for s in range(FLAGS.seeds) for p in FLAGS.policies]
    runs = []
    for number, (policy, seed) in enumerate(plan, 1):
        print(f"\n[{number}/{len(plan)}] {policy}, seed {seed}", flush=True)
        runs.append(train(policy, seed, splits))
    rows = report.summarize(runs)
    given = FLAGS.get_key_flags_for_module(sys.argv[0])
    result = {
        "flags": {flag.name: flag.value for flag in given},
        "versions": {m.__name__: m.__version__ for m in (tf, keras, tfmp)},
        "table": rows,
        "runs": runs,
    }
    (output / "results.json").write_text(json.dumps(result, indent=1))
    report.draw(runs, output / "fashion_mnist.png")
    print(f"\n{report.table(rows)}\n\nPicture and all numbers: {output}")
    if not tf.config.list_physical_devices("GPU"):
        print(f"Steps ran on a CPU; {hardware.FLOAT8_ON_CPU}.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
