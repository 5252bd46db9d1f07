"""Precision chosen by measurement: a dense network on Fashion-MNIST.

    python examples/choose_precision.py        # the shipped subset, 3 minutes

A network trains for an epoch.  Then every layer is asked what FP8 would do to
the loss, to its outputs and to its gradients, by an estimate and, with
--measure, by trying.  A search makes of it the fastest choice on a target
device that costs no more than a share of what FP8 everywhere would; and the
network trains from the start in that choice, in bfloat16 and in FP8.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fashion_mnist_data as data
import keras
from absl import app, flags

import tfmp
from tfmp import analysis

FLAGS = flags.FLAGS
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOW, HALF = "mixed_float8", "mixed_bfloat16"


def define_flags() -> None:
    flags.DEFINE_integer("epochs", 4, "Epochs of each training.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)
    flags.DEFINE_integer("width", 1024, "Of the hidden layers.", lower_bound=16)
    flags.DEFINE_integer("images", 10_000, "To train on.", lower_bound=100)
    flags.DEFINE_integer("samples", 256, "To analyse, at most.", lower_bound=1)
    flags.DEFINE_integer(
        "target_batch", 65_536, "Images a step on the target.", lower_bound=1
    )
    flags.DEFINE_enum(
        "target", "h200", list(tfmp.cost_model.TARGETS), "What time is of."
    )
    flags.DEFINE_float(
        "share", 0.5, "Of the loss that FP8 everywhere would cost.", 0.0, 1.0
    )
    flags.DEFINE_bool("measure", False, "Try each layer, too, and compare.")
    flags.DEFINE_string(
        "output", "logs/choose_precision", "Folder to write to."
    )


def make_model() -> keras.Model:
    """Builds the network in float32; a seed makes all of them alike."""
    keras.utils.set_random_seed(0)
    hidden = [
        keras.layers.Dense(FLAGS.width, "relu", name=f"hidden_{n}")
        for n in (1, 2, 3)
    ]
    start = [keras.Input([28, 28]), keras.layers.Flatten()]
    layers = [*start, *hidden, keras.layers.Dense(10, name="logits")]
    return keras.Sequential(layers, name="net")


def load() -> tuple[Any, Any]:
    """Returns the shipped images and labels, to train on and to test on."""
    train, test = data.load(full=False)
    scaled = [(x.astype("float32") / 255, y) for x, y in (train, test)]
    return tuple(part[: FLAGS.images] for part in scaled[0]), scaled[1]


def train(choice: Any, images: Any, epochs: int) -> keras.Model:
    """Trains a network in a policy or map of policies, None for float32."""
    model = make_model()
    if choice is not None:
        tfmp.convert(model, choice, filter="all")
    steps = epochs * -(-len(images[0]) // FLAGS.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    optimizer = tfmp.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(rate), initial_scale=1.0, dynamic=False
    )
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    model.fit(*images, FLAGS.batch_size, epochs, verbose=0)
    return model


def analyse(model: keras.Model, images: Any) -> analysis.Sensitivity:
    """Prints what each layer's precision costs, and returns it."""
    given = {
        "candidates": (LOW, HALF),
        "samples": FLAGS.samples,
        "roles": ["layer"],  # all that `search` reads
        "verbose": sys.stdout.isatty(),
    }
    found = analysis.sensitivity(model, images, **given)
    print(found)
    if FLAGS.measure:
        tried = analysis.sensitivity(model, images, method="measure", **given)
        print(tried)
        print(analysis.compare(found, tried))
    return found


def choose(
    model: keras.Model, found: analysis.Sensitivity
) -> analysis.SearchResult:
    """Searches within a share of what FP8 everywhere would cost."""
    rows = [row for row in found.only() if row.candidate == LOW]
    most = sum(found.percent(found.expected_increase(row)) for row in rows)
    return analysis.search(
        model,
        found,
        budget={"loss_increase": FLAGS.share * most},
        target=FLAGS.target,
        candidates=(LOW, HALF),
        batch_size=FLAGS.target_batch,
    )


def main(argv: list[str]) -> None:
    """Analyses, searches, and trains in what was found."""
    if argv[1:]:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    images, test = load()
    model = train(None, images, 1)
    found = analyse(model, images)
    result = choose(model, found)
    print(result)
    output = pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    found.plot(output / "sensitivity.png")
    result.plot(output / "frontier.png")
    result.precision_map.save(output / "map.json")
    choices = {HALF: HALF, LOW: LOW, "chosen": result.precision_map}
    print(f"\n{'trained in':16}{'loss':>8}{'accuracy':>10}")
    rows = {}
    for name, choice in choices.items():
        trained = train(choice, images, FLAGS.epochs)
        loss, accuracy = trained.evaluate(*test, FLAGS.batch_size, verbose=0)
        rows[name] = {"test_loss": loss, "test_accuracy": 100 * accuracy}
        print(f"{name:16}{loss:8.4f}{100 * accuracy:8.2f} %")
    saved = {"search": result.to_dict(), "trained": rows}
    (output / "results.json").write_text(json.dumps(saved, indent=2) + "\n")
    print(f"\nsensitivity.png, frontier.png, map.json, results.json: {output}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
