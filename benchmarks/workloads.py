"""What the benchmarks train: plain Keras models, in any precision.

A workload is written once, with the layers of Keras; a precision is what is
done to it: a policy, `tfmp.convert`, or Keras' own `quantize("float8")`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

import tfmp

SEED = 0


class Workload(NamedTuple):
    """A model and its data.

    Attributes:
        make: builds the model, in the global policy.
        shape: of one input.
        classes: labels are below it; one a token if the input is text.
        batch: the default batch size.
    """

    make: Callable[[], keras.Model]
    shape: tuple[int, ...]
    classes: int
    batch: int

    @property
    def is_text(self) -> bool:
        """Whether the inputs are tokens."""
        return len(self.shape) == 1 and self.make.func is not mlp

    def data(self, batch: int | None = None) -> tuple[Any, Any]:
        """Returns random inputs and labels."""
        random = np.random.default_rng(SEED)
        size = (batch or self.batch, *self.shape)
        if not self.is_text:
            x = random.standard_normal(size, "float32")
            return x, random.integers(0, self.classes, size[:1], "int32")
        x = random.integers(0, self.classes, size, "int32")
        return x, random.integers(0, self.classes, size, "int32")


def mlp(inputs: int, width: int, depth: int, classes: int) -> keras.Model:
    """Dense layers of one width."""
    start = x = keras.Input([inputs])
    for _ in range(depth):
        x = layers.Dense(width, "relu")(x)
    return keras.Model(start, layers.Dense(classes)(x), name="mlp")


def resnet(size: int, widths: tuple[int, ...], classes: int) -> keras.Model:
    """Residual blocks of two 3x3 convolutions; a stage halves the image."""
    start = keras.Input([size, size, 3])
    x = _convolution(start, widths[0])
    for stage, width in enumerate(widths):
        strides = 1 if stage == 0 else 2
        y = _convolution(layers.ReLU()(x), width, strides)
        y = _convolution(layers.ReLU()(y), width)
        same = strides == 1 and x.shape[-1] == width
        short = x if same else _convolution(x, width, strides, 1)
        x = layers.add([short, y])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(start, layers.Dense(classes)(x), name="resnet")


def _convolution(x: Any, width: int, strides: int = 1, size: int = 3) -> Any:
    x = layers.Conv2D(width, size, strides, "same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def transformer(
    length: int,
    width: int,
    depth: int,
    heads: int,
    vocabulary: int,
    causal: bool,
) -> keras.Model:
    """A pre-norm Transformer that says something about each token.

    Causal it is a decoder like GPT-2, otherwise an encoder like BERT.
    """
    start = keras.Input([length], dtype="int32")
    x = layers.Embedding(vocabulary, width)(start)
    places = keras.ops.zeros_like(start) + keras.ops.arange(length)
    x = layers.add([x, layers.Embedding(length, width)(places)])
    for _ in range(depth):
        x = block(x, width, heads, causal)
    x = layers.Dense(vocabulary)(layers.LayerNormalization()(x))
    return keras.Model(start, x, name="gpt" if causal else "bert")


def block(x: Any, width: int, heads: int, causal: bool) -> Any:
    """Attention and an MLP four times as wide, each with a residual."""
    y = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(heads, width // heads)
    x = layers.add([x, attention(y, y, use_causal_mask=causal)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * width, keras.activations.gelu)(y)
    return layers.add([x, layers.Dense(width)(y)])


def text(
    length: int,
    width: int,
    depth: int,
    heads: int,
    vocabulary: int,
    batch: int,
    causal: bool = True,
) -> Workload:
    """Returns the workload of a Transformer."""
    make = functools.partial(
        transformer, length, width, depth, heads, vocabulary, causal
    )
    return Workload(make, (length,), vocabulary, batch)


WORKLOADS = {
    "mlp": Workload(functools.partial(mlp, 784, 1024, 3, 10), (784,), 10, 512),
    "resnet": Workload(
        functools.partial(resnet, 32, (64, 128, 256), 10), (32, 32, 3), 10, 32
    ),
    "gpt-10m": text(256, 384, 6, 6, 256, batch=4),
    "gpt-100m": text(256, 768, 12, 12, 16384, batch=1),
    "bert-10m": text(256, 384, 6, 6, 256, batch=4, causal=False),
}
PRECISIONS = (
    "tfmp delayed",
    "tfmp current",
    "Keras float8",
    "mixed_bfloat16",
    "mixed_float16",
    "float32",
)


def build(
    workload: Workload, precision: str, jit_compile: bool = True
) -> keras.Model:
    """Returns a workload's model in a precision, compiled for training."""
    low = precision not in keras_policies()
    keras.utils.set_random_seed(SEED)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if low else precision)
    try:
        model = workload.make()
    finally:
        keras.config.set_dtype_policy(before)
    optimizer: Any = keras.optimizers.Adam(1e-4)
    if precision == "Keras float8":
        model.quantize("float8")
    elif low:
        policy = tfmp.Policy("mixed_float8", precision.split()[1])
        tfmp.convert(model, policy, "all")
        # bfloat16 has the range of float32, and its loss needs no scale.
        optimizer = tfmp.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=1.0, dynamic=False
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    return model


def keras_policies() -> tuple[str, ...]:
    """Returns the precisions that are a policy of Keras alone."""
    return tuple(name for name in PRECISIONS if " " not in name)
