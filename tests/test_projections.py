"""Attention's projections with outputs in the compute dtype, in any model."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmp
from tfmp.conversion.records import flatten
from tfmp.recipes import DelayedScaling

PRESET = tfmp.Policy("mixed_float8", "delayed_high_precision_projections")
INSIDE = DelayedScaling(high_precision=("output",))
X = np.random.default_rng(0).normal(size=[8, 6, 16]).astype("float32")
Y = X.sum(-1, keepdims=True)


@keras.saving.register_keras_serializable("test_projections")
class OwnAttention(keras.Layer):
    """Attention as models of their own have it, of dense layers."""

    def __init__(self, **options):
        super().__init__(**options)
        names = ("query", "key", "value", "out")
        self.parts = {name: keras.layers.Dense(16, name=name) for name in names}

    def build(self, shape):
        for part in self.parts.values():
            part.build(shape)

    def call(self, x):
        q, k, v = (self.parts[name](x) for name in ("query", "key", "value"))
        scores = keras.ops.softmax(q @ keras.ops.swapaxes(k, 1, 2) / 4)
        return self.parts["out"](scores @ v)


def model_of(attention):
    start = x = keras.Input([6, 16])
    if isinstance(attention, OwnAttention):
        x = attention(x)
    else:
        x = attention(x, x)
    x = keras.layers.Dense(16, "relu", name="ffn")(x)
    return keras.Model(start, keras.layers.Dense(1, name="head")(x), name="net")


def multi_head():
    return keras.layers.MultiHeadAttention(2, 8, name="attention")


def grouped():
    return keras.layers.GroupQueryAttention(8, 2, 1, name="attention")


def own():
    return OwnAttention(name="attention")


each = pytest.mark.parametrize("make", [multi_head, grouped, own])


def recipes_of(model):
    """Those in attention, and those of all other layers in FP8."""
    inside, others = set(), set()
    for path, layer in flatten(model).items():
        if getattr(layer, "float8", None) is not None:
            found = inside if "attention/" in path else others
            found.add(layer.recipe)
    return inside, others


@pytest.mark.slow
@each
def test_a_model_converted_trained_and_loaded(make, tmp_path):
    keras.utils.set_random_seed(0)
    model = model_of(make())
    tfmp.convert(model, PRESET)
    assert recipes_of(model) == ({INSIDE}, {PRESET.recipe})
    model.compile(tfmp.optimizers.LossScaleOptimizer("adam"), "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert recipes_of(loaded) == ({INSIDE}, {PRESET.recipe})
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )


@each
def test_into_it_out_of_it_and_back(make):
    model = model_of(make())
    tfmp.convert(model, "mixed_float8")
    usual = {DelayedScaling()}
    assert recipes_of(model) == (usual, usual)
    tfmp.set_precision(model, PRESET)
    assert recipes_of(model) == ({INSIDE}, {PRESET.recipe})
    tfmp.set_precision(model, "mixed_float8")
    assert recipes_of(model) == (usual, usual)


@pytest.mark.slow_but("[multi_head]")
@each
def test_outputs_are_those_of_bfloat16(make):
    keras.utils.set_random_seed(0)
    outputs = []
    for policy in ("mixed_bfloat16", PRESET, "mixed_float8"):
        keras.utils.set_random_seed(0)
        model = model_of(make())
        tfmp.convert(model, policy)
        inner = keras.Model(model.input, model.get_layer("attention").output)
        outputs.append(inner.predict(X, verbose=0))
    kept, in_float8 = (abs(y - outputs[0]).max() for y in outputs[1:])
    assert kept < abs(outputs[0]).max() / 2**7 < in_float8
