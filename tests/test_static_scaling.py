"""StaticScaling: constant scales in products, layers, steps and programs."""

import dataclasses

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from test_conformance import CASES, normal

import tfmp
from tfmp import ops
from tfmp.recipes import StaticScaling

STATIC = tfmp.Policy("mixed_float8", "static")


def make_model(policy=STATIC):
    keras.utils.set_random_seed(0)
    layers = [tfmp.layers.Dense(n, dtype=policy) for n in (16, 4)]
    return keras.Sequential([keras.Input([16]), *layers])


def compiled(recipe, dtype="bfloat16"):
    """Returns the optimised HLO of a product and its gradients."""

    @tf.function(jit_compile=True)
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = ops.matmul(x, w, recipe=recipe)
        return y, *tape.gradient(y, [x, w], output_gradients=y)

    x, w = tf.zeros([32, 16], dtype), tf.zeros([16, 48])
    return step.experimental_get_compiler_ir(x, w)(stage="optimized_hlo")


def test_nothing_is_measured_of_a_tensor():
    assert "maximum" in compiled("current")
    text = compiled("static")
    assert " reduce(" not in text and "f8e4m3fn" in text


@pytest.mark.parametrize("recipe", ["static", "static_e4m3"])
def test_beyond_the_range_it_saturates(recipe):
    w = tf.eye(2)
    y = ops.matmul([[1e6, -1e6], [2.0**-11, 3.0]], w, recipe=recipe)
    assert y.numpy().tolist() == [[448.0, -448.0], [0.0, 3.0]]


def test_scales_are_undone():
    x, w = (0.01 * normal(8, 8, seed=i) for i in (1, 2))
    scaled = StaticScaling(scale=(2.0**10, 2.0**8, 1.0))
    plain = ops.matmul(2.0**10 * x, 2.0**8 * w, recipe="static")
    y = ops.matmul(x, w, recipe=scaled)
    assert np.array_equal(y, plain / 2.0**18)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_seen(bad):
    y = ops.matmul([[bad, 0.0]], tf.eye(2), recipe="static")
    assert np.isnan(y[0, 0])
    model = make_model()
    optimizer = tfmp.optimizers.LossScaleOptimizer("sgd", initial_scale=1)
    model.compile(optimizer, "mse")
    before = model.get_weights()
    x = normal(8, 16).numpy()
    x[0, 0] = bad
    model.train_on_batch(x, normal(8, 4))
    assert int(optimizer.skipped_steps) == 1
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_a_layer_has_no_state():
    model = make_model()
    stock = make_model("float32")
    assert len(model.variables) == len(stock.variables)
    assert model.layers[0].amax is None
    assert tfmp.ConversionReport(model).float8_products == 6
    model.layers[0].trainable = False
    assert tfmp.ConversionReport(model).float8_products > 3


def test_the_monitor_tells_what_saturates():
    model = make_model()
    model.compile("sgd", "mse")
    monitor = tfmp.callbacks.ScaleMonitor(every=1)
    x = normal(32, 16).numpy()
    x[:, :4] *= 1e4
    with pytest.warns(RuntimeWarning, match="clipped"):
        model.fit(x, normal(32, 4), 8, 1, verbose=0, callbacks=[monitor])
    [path, _] = (layer.path for layer in model.layers)
    found = monitor.samples[-1]
    assert 0.2 < found[f"{path}/inputs/saturation_share"] <= 0.25
    assert f"{path}/inputs/scale" not in found


@pytest.mark.slow
def test_precision_changes_to_it_and_back():
    model = make_model("mixed_float8")
    model.compile(tfmp.optimizers.LossScaleOptimizer("sgd"), "mse")
    model.train_on_batch(normal(8, 16), normal(8, 4))
    amax = model.layers[0].amax.numpy()
    tfmp.set_precision(model, STATIC)
    assert model.layers[0].amax is None
    model.train_on_batch(normal(8, 16), normal(8, 4))
    tfmp.set_precision(model, "mixed_float8")
    assert np.array_equal(model.layers[0].amax[:2], amax[:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_layer(name):
    recipe = StaticScaling(attention=True)
    case = dataclasses.replace(CASES[name], recipe=recipe)
    keras.utils.set_random_seed(0)
    ours, stock = case.built(), case.built(case.stock, "float32")
    for one, other in zip(ours.weights, stock.weights, strict=True):
        one.assign(other)
    inputs = case.data()
    outputs = [layer(*inputs, **case.call) for layer in (ours, stock)]
    assert oracles.decibels(outputs[1].numpy(), outputs[0]) > case.gradients
