"""From training to serving: one model made smaller, step by step.

    python examples/compress.py                 # a minute
    python examples/compress.py --sparsity=0.9 --student=64

A dense network learns the real images that are shipped (Fashion-MNIST):

    float32     the network as Keras trains it, the base of all others
    FP8         trained from the same weights in `mixed_float8`
    pruned      that, trained on while `tfmp.callbacks.Pruning` takes weights
    distilled   a narrower network in FP8 that learns from it, by Keras' own
                `Distiller`
    frozen      that, with kernels of 8 bits: `tfmp.freeze`
    int8        the distilled one, by Keras' own `quantize`

`tfmp.compare` measures each in turns: accuracy, time, bytes.  Then it is
written for servers and for phones, and each file is run before it is in place.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fashion_mnist_data
import keras
import numpy as np
from absl import app, flags, logging
from keras import distillation

import tfmp

CLASSES = 10
FILES = (
    ("saved_model", "served", "float8"),
    ("litert", "model.tflite", "int8"),
    ("onnx", "model.onnx", "int8"),
    ("safetensors", "weights", "float8"),
)

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_integer("epochs", 4, "Of each training.", lower_bound=1)
    flags.DEFINE_integer("images", 10_000, "To train on.", lower_bound=16)
    flags.DEFINE_integer("width", 512, "Of the network.", lower_bound=16)
    flags.DEFINE_integer("student", 128, "Of the narrow one.", lower_bound=16)
    flags.DEFINE_float("sparsity", 0.8, "Weights to take away.", 0.0, 1.0)
    flags.DEFINE_integer("runs", 30, "How often each is timed.", lower_bound=1)
    flags.DEFINE_string("output", "logs/compress", "Folder to write to.")


def network(width: int) -> keras.Model:
    """Three dense layers; the same weights for the same width.

    The logits are float32 in every precision, as Keras' `Distiller` wants those
    of teacher and student alike.
    """
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    layers = [dense(width, "relu", name=f"hidden_{at}") for at in (1, 2)]
    return keras.Sequential(
        [
            keras.Input([784]),
            *layers,
            dense(CLASSES, name="head"),
            keras.layers.Activation("linear", dtype="float32", name="logits"),
        ],
        name=f"net_{width}",
    )


def compiled(model: keras.Model) -> keras.Model:
    model.compile(
        tfmp.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(1e-3), initial_scale=1, dynamic=False
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def trained(model: keras.Model, data: Any, *callbacks: Any) -> keras.Model:
    model.fit(*data, 100, FLAGS.epochs, verbose=2, callbacks=callbacks)
    return model


def pruned(model: keras.Model, data: Any) -> keras.Model:
    """Trains on, and takes weights away in the first half of it."""
    steps = FLAGS.epochs * len(data[0]) // 100
    steps = max(2, steps // 2)
    pruning = tfmp.callbacks.Pruning(
        FLAGS.sparsity, begin=0, end=steps, every=max(1, steps // 10)
    )
    trained(compiled(model), data, pruning)
    print("zeros:", pruning.sparsities())
    return model


def distilled(teacher: keras.Model, data: Any) -> keras.Model:
    """Returns a narrower network in FP8 that has learned from the teacher."""
    student = network(FLAGS.student)
    tfmp.convert(student, filter="all")
    distiller = distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=distillation.LogitsDistillation(temperature=3.0),
        student_loss_weight=0.3,
    )
    trained(compiled(distiller), data)
    return compiled(student)


def copied(model: keras.Model) -> keras.Model:
    path = pathlib.Path(FLAGS.output, "copy.keras")
    model.save(path)
    return keras.saving.load_model(path, compile=False)


def models(data: Any) -> dict[str, keras.Model]:
    """Returns the model after each step, by name."""
    found = {"float32": trained(compiled(network(FLAGS.width)), data)}
    float8 = network(FLAGS.width)
    tfmp.convert(float8, filter="all")
    found["FP8"] = trained(compiled(float8), data)
    found["pruned"] = pruned(copied(float8), data)
    found["distilled"] = distilled(found["pruned"], data)
    found["frozen"] = copied(found["distilled"])
    tfmp.freeze(found["frozen"])
    found["int8"] = copied(found["distilled"])
    found["int8"].quantize("int8")
    return {name: compiled(model) for name, model in found.items()}


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    folder = pathlib.Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    parts = fashion_mnist_data.load(full=False)
    (x, y), validation = (
        ((images.reshape(-1, 784) / 255).astype("float32"), labels)
        for images, labels in parts
    )
    made = models((x[: FLAGS.images], y[: FLAGS.images]))
    found = tfmp.compare(
        made, validation, batch_sizes=(1, 128), runs=FLAGS.runs
    )
    print(f"\n{found}\n")
    found.plot(folder / "compress.png")
    some = np.ascontiguousarray(validation[0][:64])
    for format, name, kernels in FILES:
        which = "frozen" if format == "saved_model" else "distilled"
        report = tfmp.export(
            made[which], folder / name, format, kernels=kernels, inputs=some
        )
        print(
            f"{which} as {format}, {kernels}: {report.size:,} bytes, ", end=""
        )
        print(f"{report.sqnr:.1f} dB from the model")


if __name__ == "__main__":
    define_flags()
    app.run(main)
