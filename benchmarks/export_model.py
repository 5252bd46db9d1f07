"""Writes the training step of a converted Keras model for a GPU.

    python benchmarks/export_model.py transformer step.mlir [--policy NAME]

The model is made of stock Keras layers and converted by `tfmp.convert`; the
report says how many products of the step run in FP8, and `compile_for_gpu.py`
counts those in the program that it compiles for a Hopper GPU.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers

import tfmp

BATCH, LENGTH, WIDTH, VOCABULARY = 8, 512, 1024, 4096
IMAGES, SIDE, CLASSES = 32, 64, 1024


def transformer() -> tuple[keras.Model, tf.Tensor]:
    """Two pre-norm blocks, 16 heads, between an embedding and logits."""
    inputs = keras.Input([LENGTH], dtype="int32")
    x = layers.Embedding(VOCABULARY, WIDTH)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(16, WIDTH // 16)
        x = layers.add([x, attention(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * WIDTH, "gelu")(y)
        x = layers.add([x, layers.Dense(WIDTH)(y)])
    outputs = layers.Dense(VOCABULARY)(layers.LayerNormalization()(x))
    return keras.Model(inputs, outputs), tf.zeros([BATCH, LENGTH], tf.int32)


def resnet() -> tuple[keras.Model, tf.Tensor]:
    """A stem and three stages of one bottleneck, as in ResNet-50."""
    inputs = keras.Input([SIDE, SIDE, 3])
    x = layers.Conv2D(64, 7, 2, "same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters, stride in ((64, 1), (128, 2), (256, 2)):
        x = _bottleneck(x, filters, stride)
    outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs), tf.zeros([IMAGES, SIDE, SIDE, 3])


def _bottleneck(x: Any, filters: int, stride: int) -> Any:
    shortcut = _convolution(x, 4 * filters, 1, stride)
    x = layers.ReLU()(_convolution(x, filters, 1, 1))
    x = layers.ReLU()(_convolution(x, filters, 3, stride))
    x = _convolution(x, 4 * filters, 1, 1)
    return layers.ReLU()(layers.add([x, shortcut]))


def _convolution(x: Any, filters: int, size: int, stride: int) -> Any:
    x = layers.Conv2D(filters, size, stride, "same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


PROGRAMS: dict[str, Callable[[], tuple[keras.Model, tf.Tensor]]] = {
    "transformer": transformer,
    "resnet": resnet,
}


def export(name: str, policy: str) -> tuple[str, tfmp.Report]:
    """Returns the StableHLO text of loss and all gradients, and the report."""
    model, x = PROGRAMS[name]()
    report = tfmp.convert(model, policy, "all", batch_size=len(x))
    rest = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]

    @tf.function(jit_compile=True)
    def step(values: list[tf.Tensor], rest: list[tf.Tensor], x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            y, rest = model.stateless_call(values, rest, x, training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(y, tf.float32)))
        return loss, tape.gradient(loss, values), rest

    values = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    compiler_ir = step.experimental_get_compiler_ir(values, rest, x)
    return compiler_ir(stage="stablehlo", platform_name="GPU"), report


def main() -> None:
    """Exports one program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=list(PROGRAMS))
    parser.add_argument("path", help="where to write the program")
    parser.add_argument("--policy", default="mixed_float8")
    args = parser.parse_args()
    text, report = export(args.program, args.policy)
    pathlib.Path(args.path).write_text(text)
    print(report)


if __name__ == "__main__":
    main()
