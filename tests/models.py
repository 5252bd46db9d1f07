"""Models as people write them, for tests of conversion."""

from __future__ import annotations

import keras
import numpy as np


@keras.saving.register_keras_serializable("models")
class Block(keras.layers.Layer):
    """A Transformer block; one sublayer only exists once it is built."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = keras.layers.MultiHeadAttention(2, 8, name="attention")
        self.norm = keras.layers.LayerNormalization()
        self.wide = keras.layers.Dense(units, "gelu", name="wide")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.wide.build(shape)
        self.narrow = keras.layers.Dense(
            shape[-1], name="narrow", dtype=self.dtype_policy
        )
        self.narrow.build((*shape[:-1], self.units))

    def call(self, x):
        x = keras.ops.add(x, self.attention(x, x))
        return keras.ops.add(x, self.narrow(self.wide(self.norm(x))))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("models")
class Subclassed(keras.Model):
    """Blocks in a list, then a convolution; nothing is built at first."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(32, name="first"), Block(16, name="second")]
        self.norm = keras.layers.BatchNormalization()
        self.conv = keras.layers.Conv1D(16, 3, padding="same", name="conv")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.conv(self.norm(x))


def subclassed(built=True):
    model = Subclassed()
    if built:
        model(np.zeros([1, 6, 16]))
    return model


def sequential(built=True):
    inputs = [keras.Input([6, 16])] if built else []
    return keras.Sequential(
        [
            *inputs,
            keras.layers.Dense(32, "relu"),
            keras.layers.Dropout(0.1),
            keras.layers.EinsumDense("abc,cd->abd", (None, 16), bias_axes="d"),
        ]
    )


def functional():
    """With a nested model, and a layer that is called twice."""
    shared = keras.layers.Dense(16, "relu", name="shared")
    inner = keras.Sequential(
        [keras.Input([6, 16]), keras.layers.Dense(16, name="deep")],
        name="inner",
    )
    inputs = keras.Input([6, 16])
    x = shared(inputs)
    x = keras.layers.add([inner(x), shared(x)])
    outputs = keras.layers.TimeDistributed(
        keras.layers.Dense(16, name="last"), name="each"
    )(x)
    return keras.Model(inputs, outputs)


def wrapped():
    """Layers in containers of their own: lists, dictionaries, wrappers."""
    lstm = keras.layers.LSTM(8, return_sequences=True)
    model = keras.Sequential(
        [
            keras.Input([6, 16]),
            keras.layers.Bidirectional(lstm),
            Block(32, name="block"),
            keras.layers.Softmax(),
        ]
    )
    return model


MODELS = {
    "sequential": sequential,
    "functional": functional,
    "subclassed": subclassed,
    "wrapped": wrapped,
}


def data(samples=32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=[samples, 6, 16]).astype("float32")
    return x, np.tanh(x[..., ::-1])


def values(variables):
    """Returns a copy of what variables hold, but for FP8 state."""
    return [v.numpy() for v in variables if "/float8/" not in v.path]
