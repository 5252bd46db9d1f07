"""`analysis.initialization`: what begins out of range, and what mends it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp import unit_scaling
from tfmp.recipes import StaticScaling


def data(rows: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    shapes = ([rows, 16], [rows, 4])
    return [tuple(random.normal(size=shape) for shape in shapes)]


def model(body: float = 0.25, factor: float = 1.0) -> keras.Model:
    """Two layers; the first has kernels, and gets inputs, of a size."""
    keras.utils.set_random_seed(0)
    normal = keras.initializers.RandomNormal(stddev=body)
    layers = [
        keras.layers.Rescaling(factor),
        keras.layers.Dense(16, kernel_initializer=normal, name="body"),
        keras.layers.Dense(4, name="head"),
    ]
    return keras.Sequential([keras.Input([16]), *layers], name="net")


def outside(found: tfmp.analysis.Initialization) -> set[tuple[str, str]]:
    return {(row.layer, row.role) for row in found.outside}


def test_each_tensor_is_found():
    cases = {
        ("net/body", "kernel"): model(body=2.0**-11),
        ("net/body", "inputs"): model(factor=2.0**-11),
    }
    for where, each in cases.items():
        found = tfmp.analysis.initialization(each, data(), "mse")
        assert where in outside(found)
    large = tfmp.analysis.initialization(model(factor=2.0**9), data(), "mse")
    [row] = [
        r for r in large.rows if (r.layer, r.role) == ("net/body", "inputs")
    ]
    assert row.too_large > 0.1 and row.factor == 2.0**-9
    many = tfmp.analysis.initialization(model(), data(2**13), "mse")
    assert outside(many) == {("net/body", "grads"), ("net/head", "grads")}
    assert "multiply the loss by 2**" in str(many)


def test_shares_are_those_of_the_tensors():
    """Of kernels, and of gradients that another tape finds."""
    net, [(x, y)] = model(body=2.0**-10), data(2**12)
    found = tfmp.analysis.initialization(net, [(x, y)], "mse")
    rows = {(row.layer, row.role): row for row in found.rows}
    kernel = np.abs(net.get_layer("body").kernel.numpy())
    row = rows["net/body", "kernel"]
    assert row.rms == pytest.approx(np.sqrt(np.mean(kernel**2)), rel=1e-5)
    assert row.too_small == pytest.approx(np.mean(kernel <= 2.0**-10))
    with tf.GradientTape() as tape:
        outputs = net(x)
        loss = tf.reduce_mean(tf.square(tf.cast(y, "float32") - outputs))
    gradient = np.abs(tape.gradient(loss, outputs).numpy())
    row = rows["net/head", "grads"]
    assert row.rms == pytest.approx(np.sqrt(np.mean(gradient**2)), rel=1e-5)
    assert row.too_small == pytest.approx(np.mean(gradient <= 2.0**-17))


def test_three_constant_scales_mend_a_model():
    net = model(body=2.0**-9)
    found = tfmp.analysis.initialization(net, data(2**13), "mse")
    assert found.outside
    recipe = found.static_scaling()
    again = tfmp.analysis.initialization(net, data(2**13), "mse", recipe)
    assert again.outside == ()


def test_what_is_said_mends_a_kernel():
    """A standard deviation of 1, and the result times what was the rms."""
    net = model(body=2.0**-11)
    found = tfmp.analysis.initialization(net, data(), "mse")
    row = next(row for row in found.rows if row.role == "kernel")
    assert row.mend == "RandomNormal(stddev=1), and the result times 0.00049"
    layer = unit_scaling.Dense(4, name="head")
    mended = keras.Sequential([keras.Input([16]), layer])
    found = tfmp.analysis.initialization(
        mended, data(), unit_scaling.MeanSquaredError()
    )
    assert found.outside == ()
    assert all(0.5 < row.rms < 2 for row in found.rows)


def test_a_compiled_model_stays_as_it_is():
    net = model()
    net.compile("adam", unit_scaling.MeanSquaredError())
    tfmp.convert(net, "mixed_float8", "all")
    before = [np.array(v) for v in net.variables]
    policies = [each.dtype_policy for each in net.layers]
    found = tfmp.analysis.initialization(net, data(2**13))
    assert found.outside == ()  # its gradient is not divided by the rows
    for variable, value in zip(net.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert [each.dtype_policy for each in net.layers] == policies


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"model": 1}, "`model` must be a keras.Model"),
        ({"data": 1}, "`data` must be"),
        ({"loss": None}, "`loss` must be"),
        ({"loss": "no loss"}, "`loss` must be"),
        ({"recipe": "delayed"}, "`recipe` must be a tfmp.recipes.StaticS"),
        ({"samples": 0}, "`samples` must be 1 or more"),
    ],
)
def test_bad_values_are_named(changed, said):
    good = {"model": model(), "data": data(), "loss": "mse"}
    with pytest.raises((TypeError, ValueError), match=said):
        tfmp.analysis.initialization(**{**good, **changed})


def test_factors_are_relative_to_the_recipe():
    recipe = StaticScaling(scale=(1, 2**10, 1))
    net = model(body=2.0**-10)
    found = tfmp.analysis.initialization(net, data(), "mse", recipe)
    assert ("net/body", "kernel") not in outside(found)
    row = next(row for row in found.rows if row.role == "kernel")
    assert row.factor == 2.0**10


def test_what_is_not_finite_is_outside():
    model = keras.Sequential([keras.Input([16]), keras.layers.Dense(16)])
    x = np.ones([8, 16], "float32")
    x[0, 0] = np.nan
    found = tfmp.analysis.initialization(model, (x, np.zeros([8, 16])), "mse")
    assert "not finite" in found.outside[0].mend
