"""The arithmetic of other libraries, as `benchmarks/peers.py` does it."""

import importlib
import pathlib
import sys

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import tfmp

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
peers = importlib.import_module("peers")
EXACT = peers.Arithmetic(None, None, None, None)
RNG = np.random.default_rng(0)
X = RNG.normal(size=[32, 64]).astype("float32")
W = RNG.normal(size=[64, 16]).astype("float32")


def gradients(product):
    x, w = tf.constant(X), tf.constant(W)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = product(x, w)
        loss = tf.reduce_sum(y**2)
    return [y, *tape.gradient(loss, [x, w])]


def test_without_formats_it_is_einsum():
    found = gradients(lambda x, w: peers.einsum("...a,ab->...b", x, w, EXACT))
    for a, b in zip(found, gradients(tf.matmul), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_by_powers_of_two_it_is_current_scaling():
    how = peers.Arithmetic(powers=True)
    found = gradients(lambda x, w: peers.einsum("...a,ab->...b", x, w, how))
    recipe = tfmp.recipes.get("current")
    ours = gradients(
        lambda x, w: tfmp.ops.matmul(
            x, w, recipe=recipe, amax=tfmp.ops.Pass(training=True)
        )
    )
    for a, b in zip(found, ours, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("axes", [[0, 1], [1]])
def test_rounding_is_that_of_ml_dtypes(axes):
    scale = 448.0 / np.abs(X).max(tuple(axes), keepdims=True)
    expected = (X * scale).astype(ml_dtypes.float8_e4m3fn)
    expected = expected.astype("float32") / scale
    found = peers.rounded(tf.constant(X), "float8_e4m3fn", axes, False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_row_of_outliers_costs_the_others_nothing_by_rows():
    x = X.copy()
    x[0] *= 1e5
    product = "...a,ab->...b", tf.constant(x), tf.constant(W)

    def sqnr(how):
        found = peers.einsum(*product, how)
        return float(tfmp.ops.sqnr(x[1:] @ W, found[1:]))

    assert sqnr(peers.ROWWISE) > 25
    assert sqnr(peers.TENSORWISE) < 20


@pytest.mark.parametrize("equation", ["abc,cde->abde", "abcd,cde->abe"])
def test_layers_become_peers(equation):
    shape = (2, 3, 4) if equation[3] == "," else (2, 3, 4, 5)
    output = (3, 5, 6) if equation[3] == "," else (3, 6)
    layer = keras.layers.EinsumDense(equation, output, bias_axes="e")
    x = RNG.normal(size=shape).astype("float32")
    before = layer(x)
    peers.become(layer, EXACT)
    np.testing.assert_allclose(layer(x), before, rtol=1e-5, atol=1e-5)
    peers.become(layer, peers.TENSORWISE)
    assert 20 < float(tfmp.ops.sqnr(before, layer(x))) < 40
