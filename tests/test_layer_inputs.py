"""What a Keras layer takes as inputs, its tfmp layer takes: a matrix."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16", "mixed_float8"]
SEQUENCE = (2, 3, 16)
# Arguments, shape of the inputs, and how many there are.
LAYERS = {
    "Dense": ((4,), (2, 16), 1),
    "EinsumDense": (("abc,cd->abd", (None, 4)), SEQUENCE, 1),
    "Conv1D": ((4, 3), (2, 8, 16), 1),
    "Conv2D": ((4, 3), (2, 8, 8, 16), 1),
    "Conv3D": ((4, 3), (2, 4, 4, 4, 16), 1),
    "MultiHeadAttention": ((2, 8), SEQUENCE, 2),
    "GroupedQueryAttention": ((8, 4, 2), SEQUENCE, 2),
    "BatchNormalization": ((), SEQUENCE, 1),
}
KINDS = {
    "int8": lambda x: tf.constant(x, "int8"),
    "int32": lambda x: tf.constant(x, "int32"),
    "int64": lambda x: tf.constant(x, "int64"),
    "uint8": lambda x: tf.constant(x, "uint8"),
    "bool": lambda x: tf.constant(x > 0),
    "float16": lambda x: tf.constant(x, "float16"),
    "bfloat16": lambda x: tf.cast(x, "bfloat16"),
    "float64": lambda x: tf.constant(x, "float64"),
    "array of float32": lambda x: x.astype("float32"),
    "array of float64": lambda x: x.astype("float64"),
    "array of int64": lambda x: x,
    "array of bool": lambda x: x > 0,
    "list": lambda x: x.tolist(),
    "variable": lambda x: tf.Variable(x.astype("float32")),
    "sparse": lambda x: tf.sparse.from_dense(x.astype("float32")),
    "sparse of int32": lambda x: tf.sparse.from_dense(x.astype("int32")),
}


def pair(name, policy):
    """Returns Keras' layer and that of tfmp, with the same weights."""
    arguments, shape, inputs = LAYERS[name]
    ours = getattr(tfmp.layers, name)
    stock = keras_class(name)
    wide = "mixed_bfloat16" if policy == "mixed_float8" else policy
    theirs, ours = stock(*arguments, dtype=wide), ours(*arguments, dtype=policy)
    for layer in (theirs, ours):
        layer.build(*(shape,) * inputs)
    kept = [v for v in ours.variables if "/float8/" not in v.path]
    for variable, value in zip(kept, theirs.variables, strict=True):
        variable.assign(value)
    return theirs, ours


def keras_class(name):
    return getattr(keras.layers, name.replace("Grouped", "Group"))


def outcome(layer, inputs, count):
    """Returns what a layer gives, None if it does not take the inputs."""
    try:
        return layer(*(inputs,) * count)
    except Exception:
        return None


@pytest.mark.slow_but("[Dense", "[Conv2D", "[Ein", "float16")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_what_that_of_keras_takes(name, policy):
    _, shape, count = LAYERS[name]
    whole = np.random.default_rng(0).integers(0, 3, size=shape)
    taken = 0
    theirs, ours = pair(name, policy)
    for kind, make in KINDS.items():
        expected = outcome(theirs, make(whole), count)
        if expected is None:
            continue
        taken += 1
        got = outcome(ours, make(whole), count)
        assert got is not None, kind
        assert got.dtype == expected.dtype, kind
        if policy == "mixed_float8":
            wide = [tf.cast(y, tf.float32) for y in (expected, got)]
            assert tfmp.ops.sqnr(*wide) > 18, kind
        else:
            np.testing.assert_array_equal(got, expected, kind)
    assert taken >= 6


@pytest.mark.parametrize("name", ["Conv1D", "Conv2D", "Conv3D"])
def test_a_convolution_takes_whole_numbers_too(name):
    _, shape, _ = LAYERS[name]
    whole = np.random.default_rng(0).integers(0, 3, size=shape)
    _, ours = pair(name, "mixed_float8")
    for dtype in ("int32", "uint8", "bool"):
        x = tf.cast(whole, dtype)
        expected = ours(tf.cast(x, "float32"))
        np.testing.assert_array_equal(ours(x), expected)


@pytest.mark.slow_but("[int32", "[bool-False")
@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float64"])
def test_a_converted_model_trains_on_whole_numbers(dtype, jit_compile):
    model = keras.Sequential(
        [keras.Input([16], dtype=dtype), keras.layers.Dense(4)]
    )
    tfmp.convert(model, filter="all")
    model.compile("adam", "mse", jit_compile=jit_compile)
    x = np.ones([64, 16], dtype)
    losses = model.fit(x, np.ones([64, 4]), epochs=5, verbose=0)
    assert losses.history["loss"][-1] < losses.history["loss"][0]


def sparse_data():
    rng = np.random.default_rng(0)
    x = rng.random([64, 32]).astype("float32")
    x[x < 0.8] = 0
    return x, x[:, :4] - x[:, 4:8]


class Net(keras.Model):
    """Two products, of which the first may be of sparse inputs."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(16, "relu", name="first")
        self.head = keras.layers.Dense(4, name="head")

    def call(self, inputs):
        return self.head(self.first(inputs))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["functional", "subclassed"])
def test_sparse_inputs_train_as_dense_ones_do(how):
    x, y = sparse_data()
    losses, reports = {}, {}
    for sparse in (True, False):
        keras.utils.set_random_seed(0)
        model = Net()
        if how == "functional":
            inputs = keras.Input([32], sparse=sparse)
            model = keras.Model(inputs, model.head(model.first(inputs)))
        tfmp.convert(model, filter="all")
        model.compile(keras.optimizers.Adam(0.01), "mse")
        data = tf.sparse.from_dense(x) if sparse else x
        history = model.fit(
            data, y, batch_size=64, epochs=20, shuffle=False, verbose=0
        )
        losses[sparse] = history.history["loss"]
        reports[sparse] = tfmp.ConversionReport(model)
    assert losses[True][-1] < 0.9 * losses[True][0]
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.1)
    first, head = reports[True].rows
    assert not first.float8 and "sparse" in first.reason
    assert head.float8
    assert reports[False].rows[0].float8
