"""Products by `tfmp.recipes.Emulated`: operands, gradients, layers, reports."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp import formats, recipes
from tfmp.layers.float8_state import all_states
from tfmp.ops import amax, compute_scale, conv, einsum, emulate, matmul
from tfmp.recipes import Emulated

MIXED = Emulated("MXFP4", "MXFP8_E5M2")
OWN = formats.Format("E3M0", "", 3, 0, specials="none")
FULL = Emulated(
    (
        formats.E4M3,
        dataclasses.replace(formats.MXFP4, name="U", scale_rounding="ceil"),
    ),
    OWN,
    rounding="toward_zero",
    backward_rounding="stochastic",
    high_precision=("input_grad",),
    high_precision_projections=("output",),
    attention=True,
    seed=5,
)


def normal(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.random.stateless_normal(shape, [0, seed])


def by_hand(x: tf.Tensor, name: str, axis: object) -> tf.Tensor:
    """Returns a tensor as one role contributes it to one product."""
    target = formats.get(name)
    scale = None
    if isinstance(target, formats.Format) and target.exponent_bits < 8:
        scale = compute_scale(amax(x), target)
    return emulate(x, target, scale=scale, axis=axis)


def gradients(function, x, w, upstream):
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = function(x, w)
    return [y, *tape.gradient(y, [x, w], output_gradients=upstream)]


def check_close(found, expected, rtol=1e-5):
    for a, b in zip(found, expected, strict=True):
        top = float(amax(b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * top)


# The recipe as a value.


@pytest.mark.parametrize("recipe", [MIXED, FULL, Emulated("E2M1")], ids=str)
def test_round_trip(recipe):
    config = json.loads(json.dumps(recipes.serialize(recipe)))
    again = recipes.get(config)
    assert again == recipe and hash(again) == hash(recipe)
    assert type(again) is Emulated and repr(again) == repr(recipe)
    policy = tfmp.Policy("mixed_float8", recipe=recipe)
    loaded = keras.dtype_policies.deserialize(
        keras.dtype_policies.serialize(policy)
    )
    assert loaded == policy and loaded.recipe == recipe


def test_full_has_no_default():
    plain = Emulated("FLOAT32")
    for field in dataclasses.fields(FULL):
        assert getattr(FULL, field.name) != getattr(plain, field.name)


def test_roles_and_products():
    assert (MIXED.inputs, MIXED.kernel, MIXED.grads) == (
        *("MXFP4", "MXFP4"),
        "MXFP8_E5M2",
    )
    assert Emulated("E2M1").grads == "E2M1"
    assert Emulated(formats.E2M1) == Emulated("float4_e2m1fn")
    assert FULL.format("grads") is OWN and FULL.format("inputs").max == 448
    assert [FULL.rounding_of(role) for role in recipes.ROLES] == [
        *("toward_zero", "toward_zero"),
        "stochastic",
    ]
    for product in recipes.PRODUCTS:
        assert not FULL.in_float8(product)
        assert FULL.lowers(product) == (product != "input_grad")
    assert FULL.as_current() == FULL.in_one_format() == FULL
    assert not any(map(FULL.is_delayed, recipes.ROLES))
    wide = MIXED.keep_high_precision(("output",))
    assert wide.high_precision == ("output",) and wide.grads == "MXFP8_E5M2"
    assert repr(MIXED) == "Emulated(forward='MXFP4', backward='MXFP8_E5M2')"
    assert str(MIXED) == "emulated MXFP4, MXFP8_E5M2"


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"forward": "E9M9"}, ValueError, "`forward`"),
        ({"backward": 3}, TypeError, "`backward`"),
        ({"backward": formats.Format("X", "", 9, 2)}, ValueError, "`backward`"),
        ({"forward": ("E4M3",)}, ValueError, "`forward`"),
        ({"forward": ("E4M3", 3)}, TypeError, r"`forward\[1\]`"),
        ({"rounding": "up"}, ValueError, "`rounding`"),
        ({"backward_rounding": None}, TypeError, "`backward_rounding`"),
        ({"high_precision": ("x",)}, ValueError, "`high_precision`"),
        ({"attention": 1}, TypeError, "`attention`"),
        ({"seed": -1}, ValueError, "`seed`"),
    ],
)
def test_errors(fields, error, said):
    with pytest.raises(error, match=said) as caught:
        Emulated(**{"forward": "E4M3", **fields})
    assert "Received: " in str(caught.value)


# The products.


@pytest.mark.parametrize("name", ["NVFP4", "E3M2"])
def test_operands_of_a_matmul(name):
    x, w, dy = normal(40, 70), normal(70, 24, seed=1), normal(40, 24, seed=2)
    recipe = Emulated(name, "MXFP8_E5M2")
    found = gradients(lambda x, w: matmul(x, w, recipe=recipe), x, w, dy)
    g = "MXFP8_E5M2"
    check_close(
        found,
        [
            by_hand(x, name, 1) @ by_hand(w, name, 0),
            by_hand(dy, g, 1) @ tf.transpose(by_hand(w, name, 1)),
            tf.transpose(by_hand(x, name, 0)) @ by_hand(dy, g, 0),
        ],
    )


def test_operands_of_an_einsum():
    """Blocks lie along all axes that are summed over, as if they were one."""
    x, w = normal(3, 10, 7), normal(10, 7, 5, seed=1)
    y = einsum("abc,bcd->ad", x, w, recipe=Emulated("MXFP4"))
    flat, rows = tf.reshape(x, [3, 70]), tf.reshape(w, [70, 5])
    expected = by_hand(flat, "MXFP4", 1) @ by_hand(rows, "MXFP4", 0)
    check_close([y], [expected])


def test_emulated_fp8_is_what_fp8_gives():
    """The same operands by the same scales, multiplied in another way."""
    x, w, dy = normal(16, 40), normal(40, 24, seed=1), normal(16, 24, seed=2)
    both = [
        gradients(lambda x, w, r=recipe: matmul(x, w, recipe=r), x, w, dy)
        for recipe in (Emulated("E4M3", "E5M2"), recipes.CurrentScaling())
    ]
    check_close(*both)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_wide_formats_change_nothing(dtype):
    x, w, dy = (
        tf.cast(each, dtype)
        for each in (normal(8, 12), normal(12, 6, seed=1), normal(8, 6, seed=2))
    )
    same = Emulated("FLOAT32")
    found = gradients(lambda x, w: matmul(x, w, recipe=same), x, w, dy)
    x, w, dy = (tf.cast(each, tf.float32) for each in (x, w, dy))
    exact = gradients(tf.matmul, x, w, dy)
    epsilon = 4 * formats.get_plain(dtype).epsilon
    check_close([tf.cast(y, tf.float32) for y in found], exact, epsilon)
    assert [y.dtype for y in found] == [tf.as_dtype(dtype)] * 3


def test_one_role_and_high_precision():
    x, w, dy = normal(8, 64), normal(64, 6, seed=1), normal(8, 6, seed=2)
    kernel = Emulated(("FLOAT32", "E2M1"))
    y, dx, dw = gradients(lambda x, w: matmul(x, w, recipe=kernel), x, w, dy)
    low = by_hand(w, "E2M1", 0)
    expected = x @ low, dy @ tf.transpose(low), tf.transpose(x) @ dy
    check_close([y, dx, dw], expected)
    wide = Emulated("E2M1", high_precision=("output", "kernel_grad"))
    y, dx, dw = gradients(lambda x, w: matmul(x, w, recipe=wide), x, w, dy)
    dx_low = by_hand(dy, "E2M1", 1) @ tf.transpose(low)
    check_close([y, dx, dw], [x @ w, dx_low, expected[2]])


def test_infinities_are_seen():
    x = tf.constant([[1.0, np.inf]])
    for name in ("E4M3", "MXFP4"):
        y = matmul(x, tf.ones([2, 3]), recipe=Emulated(name))
        assert not np.isfinite(y).any()


CONVOLUTIONS = [
    # strides, padding, dilation, groups; channels, filters
    (2, "valid", 1, 2, 80, 10),
    (1, "same", 2, 1, 40, 36),
]


@pytest.mark.parametrize("how", CONVOLUTIONS, ids=str)
def test_operands_of_a_convolution(how):
    strides, padding, dilation, groups, channels, filters = how
    x = normal(2, 7, 8, channels)
    w = normal(3, 3, channels // groups, filters, seed=1)

    def run(x, w, **options):
        return conv(x, w, strides, padding, None, dilation, **options)

    def plain(x, w):
        return keras.ops.conv(x, w, strides, padding, None, dilation)

    def lie(x, parts):  # blocks within each group
        shape = x.shape.as_list()
        split = tf.reshape(x, [*shape[:-1], parts, shape[-1] // parts])
        return tf.reshape(by_hand(split, "MXFP4", -1), shape)

    dy = normal(*plain(x, w).shape, seed=2)
    recipe = Emulated("MXFP4")
    y, dx, dw = gradients(lambda *a: run(*a, recipe=recipe), x, w, dy)
    expected = plain(lie(x, groups), by_hand(w, "MXFP4", 2))
    expected_dx = gradients(plain, x, lie(w, groups), lie(dy, groups))[1]
    axes = (0, 1, 2)
    flat = [by_hand(each, "MXFP4", axes) for each in (x, dy)]
    expected_dw = gradients(plain, flat[0], w, flat[1])[2]
    check_close([y, dx, dw], [expected, expected_dx, expected_dw])


@pytest.mark.slow
def test_stochastic_gradients_repeat():
    recipe = Emulated("E4M3", backward_rounding="stochastic")
    other = dataclasses.replace(recipe, seed=1)
    x, w = normal(64, 48), normal(48, 32, seed=1)
    dy = normal(64, 32, seed=2)

    def dw(recipe, dy=dy):
        return gradients(lambda x, w: matmul(x, w, recipe=recipe), x, w, dy)[2]

    first = dw(recipe)
    assert (first == dw(recipe)).numpy().all()
    assert (first != dw(other)).numpy().any()
    # One element is another: so are all random numbers.
    changed = tf.tensor_scatter_nd_update(dy, [[0, 0]], [0.5])
    assert (first[:, 1:] != dw(recipe, changed)[:, 1:]).numpy().any()
    near = dw(Emulated("E4M3"))
    assert (first != near).numpy().any()


def test_nothing_is_measured_and_second_order_raises():
    x = normal(4, 8)
    with pytest.raises(ValueError, match="`probe`"):
        measured = tfmp.ops.Pass(probe=tfmp.ops.Probe())
        matmul(x, normal(8, 2), recipe=MIXED, amax=measured)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = matmul(x, normal(8, 2), recipe=MIXED) ** 2
        dx = inner.gradient(y, x)
    with pytest.raises(Exception, match="second-order gradient"):
        outer.gradient(dx, x)


# Models and reports.


def make(policy):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, name="head"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model, tfmp.convert(model, policy)


@pytest.fixture(scope="module")
def trained():
    """A model trained with emulated products, its report and its losses."""
    recipe = Emulated("MXFP8_E4M3", backward_rounding="stochastic")
    model, report = make(tfmp.Policy("mixed_float8", recipe=recipe))
    rng = np.random.default_rng(0)
    x = rng.normal(size=[64, 8, 8, 3])
    y = x.mean(axis=(1, 2)) @ rng.normal(size=[3, 4]) * 5
    losses = model.fit(x, y, epochs=8, verbose=0).history["loss"]
    return model, report, losses


@pytest.mark.slow
def test_a_model_trains(trained):
    model, _, losses = trained
    assert losses[-1] < 0.8 * losses[0]
    assert not any("amax" in variable.path for variable in model.variables)
    assert [layer.amax for layer in (model.layers[0], model.layers[-1])] == [
        None,
        None,
    ]


def test_reports_say_that_it_is_emulated(trained):
    model, report, _ = trained
    rows = [row for row in report.rows if row.products]
    assert [row.precision for row in rows] == ["emulated"] * 2
    assert all("emulated MXFP8_E4M3" in row.reason for row in rows)
    assert (report.float8_share, report.float8_products) == (0.0, 0)
    assert (
        report.emulated_products == report.to_dict()["emulated_products"] == 6
    )
    assert "FP8: 0 of 2 layers" in str(report)
    assert "emulated: 6 products, multiplied in float32" in str(report)
    lines: list[str] = []
    tfmp.summary(model, print_fn=lines.append)
    text = "\n".join(lines)
    assert "FP8: 0 of 6 products" in text
    assert "Emulated: 6 of 6 products" in text and "emulated  " in text


def test_the_monitor_says_that_it_measures_nothing(trained):
    model, monitor = trained[0], tfmp.callbacks.ScaleMonitor(every=1)
    weights = model.get_weights()
    said = "Emulated layers of the model 'net' .*: net/conv, net/head. They"
    with pytest.warns(RuntimeWarning, match=said) as told:
        x = np.zeros([64, 8, 8, 3])
        model.fit(x, x[:, 0, 0, :1], verbose=0, callbacks=[monitor])
    model.set_weights(weights)
    told = [str(one.message) for one in told]
    assert sum("tfmp" in text for text in told) == 1
    assert not any("net/" in name for name in monitor.samples[-1])


def test_inspection_says_that_it_is_emulated(trained):
    inspection = tfmp.inspect(trained[0])
    assert inspection.float8_share == 0 and len(inspection.products) >= 4
    for row in inspection.products:
        assert row.operands == ("f32", "f32")
        assert "emulated MXFP8_E4M3" in row.reason


def test_a_file_and_a_map(trained, tmp_path):
    model, _, _ = trained
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.layers[-1].recipe == model.layers[-1].recipe
    x = np.float32(np.random.default_rng(3).normal(size=[4, 8, 8, 3]))
    np.testing.assert_array_equal(loaded(x), model(x))
    own = tfmp.PrecisionMap(
        {"head": tfmp.Policy("mixed_float8", recipe=FULL)}, "float32"
    )
    again = tfmp.PrecisionMap.from_config(own.get_config())
    assert again["head"].recipe == FULL


def test_no_gain_is_claimed():
    """Where FP8 pays, and what GPUs have, is no question of emulation."""
    model, _ = make("float32")
    policy = tfmp.Policy("mixed_float8", recipe=MIXED)
    report = tfmp.convert(model, policy, target="h200")
    rows = [row for row in report.rows if row.products]
    assert [row.precision for row in rows] == ["emulated"] * 2
    assert not any("predicted" in row.reason for row in rows)
    keep = tfmp.convert(make("float32")[0], policy, skip=("first",))
    assert [r.precision for r in keep.rows if r.products] == [
        "bfloat16",
        "emulated",
    ]
    with tfmp.policy_scope("float32"):
        said = str(tfmp.configure(policy))
    assert "emulated MXFP4, MXFP8_E5M2" in said
    assert "multiplied in float32" in " ".join(said.split())


def test_there_and_back():
    """The state of FP8 scaling waits while a layer is emulated."""
    layer = tfmp.layers.Dense(4, dtype="mixed_float8")
    model = keras.Sequential([keras.Input([8]), layer])
    layer.float8.assume([1.0, 2.0, 3.0])
    policy = tfmp.Policy("mixed_float8", recipe=MIXED)
    report = tfmp.set_precision(model, policy)
    assert layer.amax is None and report.rows[0].precision == "emulated"
    assert not all_states(model)
    tfmp.set_precision(model, "mixed_float8")
    assert all_states(model) == [layer.float8]
    np.testing.assert_array_equal(layer.amax, [1, 2, 3])


def test_attention():
    x = normal(2, 6, 16)
    outputs = []
    for recipe in (
        Emulated("FLOAT32", "E2M1"),
        Emulated(("FLOAT32", "E2M1"), attention=True),
    ):
        policy = tfmp.Policy("mixed_float8", recipe=recipe)
        keras.utils.set_random_seed(2)
        layer = tfmp.layers.MultiHeadAttention(2, 8, dtype=policy)
        outputs.append(layer(x, x))
        assert len(layer.float8_operators()) == 2 * recipe.attention
    assert (outputs[0] != outputs[1]).numpy().any()
