"""Somebody else's model in FP8: keras-hub's Vision Transformer, converted.

    python examples/convert_pretrained.py                # 2 minutes
    python examples/convert_pretrained.py --filter=auto --target=h200
    python examples/convert_pretrained.py --preset=vit_base_patch16_224_imagenet

No layer of the model is tfmp's: `tfmp.convert` changes it in place.  It trains
on the real images that are shipped (Fashion-MNIST) in float32, in bfloat16 and
in FP8; a seed gives all of them the same initial weights and batches.  The
weights are random unless --preset, which needs a network, names others.

It prints the report of each conversion, what the program of a training step
really multiplies in FP8, and the accuracies.
"""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fashion_mnist as dense_example
import fashion_mnist_data as data
import keras
import keras_hub
import numpy as np
import tensorflow as tf
from absl import app, flags

import tfmp
from tfmp import cost_model, hardware, recipes

POLICIES = ("float32", "mixed_bfloat16", "mixed_float8")
CLASSES, PIXELS, PATCH = 10, 28, 7

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_list("policies", list(POLICIES), "Of these, in this order.")
    flags.DEFINE_string("preset", None, "Pretrained image classifier to load.")
    flags.DEFINE_enum(
        "recipe", "delayed", list(recipes.PRESETS), "Of the FP8 products."
    )
    flags.DEFINE_list(
        "filter",
        ["all"],
        "Layers to take to FP8: all, auto (where it pays on --target), or "
        "patterns of paths, such as mlp,mha/query.",
    )
    flags.DEFINE_enum(
        "target", None, list(cost_model.TARGETS), "GPU of --filter=auto."
    )
    flags.DEFINE_integer("epochs", 4, "Epochs of each run.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 100, "Images a step.", lower_bound=1)
    flags.DEFINE_integer("images", 10_000, "To train on.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 1e-3, "Of Adam.")
    flags.DEFINE_integer("seed", 0, "Of weights and batches.", lower_bound=0)
    flags.DEFINE_integer("depth", 3, "Transformer blocks.", lower_bound=1)
    flags.DEFINE_bool("jit_compile", True, "Compile the model with XLA.")
    flags.register_validator(
        "policies",
        lambda names: 0 < len(names) == len(set(names) & set(POLICIES)),
        f"must be different names out of {','.join(POLICIES)}",
    )
    flags.register_validator(
        "learning_rate", lambda rate: 0 < rate < 1, "must be between 0 and 1"
    )


def make_model() -> keras.Model:
    """Returns keras-hub's model, as it is without tfmp.

    One of a preset brings what fits images to it, and `fit` applies that.
    """
    if FLAGS.preset:
        return keras_hub.models.ImageClassifier.from_preset(
            FLAGS.preset, num_classes=CLASSES
        )
    backbone = keras_hub.models.ViTBackbone(
        image_shape=[PIXELS, PIXELS, 1],
        patch_size=PATCH,
        num_layers=FLAGS.depth,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
    )
    return keras_hub.models.ViTImageClassifier(backbone, num_classes=CLASSES)


def images_of(split: tuple, model: keras.Model, training: bool) -> Any:
    """Makes batches of images with the channels that the model takes."""
    size = FLAGS.batch_size if training else 1000
    batches = data.dataset(*split, size, FLAGS.seed, training)
    if model.input_shape[-1] == 1:
        return batches.map(lambda x, y: (x[..., None], y))
    return batches.map(
        lambda x, y: (tf.image.grayscale_to_rgb(255 * x[..., None]), y)
    )


def tokens(model: keras.Model) -> int:
    """Returns how many a Transformer has of an image: patches and the class.

    keras-hub leaves that open, and a report has to assume something.
    """
    patch = np.broadcast_to(getattr(model.backbone, "patch_size", 1), 2)
    return int(np.prod(model.input_shape[1:3] // patch)) + 1


def convert(model: keras.Model, policy: str) -> tfmp.ConversionReport:
    """Converts all of the model: to FP8 by the flags, or to bfloat16."""
    if policy != "mixed_float8":
        return tfmp.convert(model, policy)
    words = FLAGS.filter
    return tfmp.convert(
        model,
        tfmp.Policy(policy, recipe=FLAGS.recipe),
        filter=words[0] if words in (["all"], ["auto"]) else words,
        target=FLAGS.target,
        batch_size=FLAGS.batch_size,
        length=tokens(model),
    )


def train(policy: str, splits: tuple) -> dict[str, Any]:
    """Converts, trains and tests one model; returns a row of the table."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(FLAGS.seed)
    model = make_model()
    if policy != "float32":
        report = convert(model, policy)
        if policy == "mixed_float8":
            print(report, flush=True)
    optimizer = keras.optimizers.Adam(FLAGS.learning_rate)
    if policy == "mixed_float8":
        optimizer = tfmp.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=1.0, dynamic=False
        )
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=FLAGS.jit_compile,
    )
    batches = images_of(splits[0], model, training=True)
    start = time.perf_counter()
    model.fit(batches, epochs=FLAGS.epochs, verbose=2, shuffle=False)
    seconds = time.perf_counter() - start
    test_set = images_of(splits[1], model, training=False)
    result = model.evaluate(test_set, verbose=0, return_dict=True)
    return {
        "policy": policy,
        "accuracy": 100 * result["accuracy"],
        "seconds": seconds,
        "products": dense_example.products(model, FLAGS.batch_size),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Formats the rows; the first one is what the others are compared to."""
    head = f"vs {rows[0]['policy']}"
    lines = [
        f"{'policy':16}{'test accuracy':>14}{head:>20}{'FP8 products':>15}"
    ]
    for row in rows:
        counts = row["products"]
        low = sum(n for types, n in counts.items() if types[0] == "E")
        points = f"{row['accuracy'] - rows[0]['accuracy']:+.2f}"
        lines.append(
            f"{row['policy']:16}{row['accuracy']:>12.2f} %{points:>20}"
            f"{low:>8} of {sum(counts.values())}"
        )
    lines += ["", "Matrix products of a training step, as XLA is given them:"]
    for row in rows:
        counts = sorted(row["products"].items())
        text = ", ".join(f"{n} {types}" for types, n in counts)
        lines.append(f"{row['policy']:16}{text}; fit {row['seconds']:.0f} s")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Flags only, please. Received: {argv[1:]}")
    if FLAGS.target and FLAGS.filter != ["auto"]:
        raise app.UsageError(
            "--target goes with --filter=auto. "
            f"Received: --filter={','.join(FLAGS.filter)}"
        )
    (x, y), test = data.load(full=False)
    try:
        splits = (x[: FLAGS.images], y[: FLAGS.images]), test
        data.dataset(*splits[0], FLAGS.batch_size, FLAGS.seed, True)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    rows = []
    for number, policy in enumerate(FLAGS.policies, 1):
        print(f"\n[{number}/{len(FLAGS.policies)}] {policy}", flush=True)
        rows.append(train(policy, splits))
    print(f"\n{table(rows)}")
    if not tf.config.list_physical_devices("GPU"):
        print(f"Steps ran on a CPU; {hardware.FLOAT8_ON_CPU}.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
