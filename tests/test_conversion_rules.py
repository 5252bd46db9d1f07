"""What a conversion decides: defaults, products, costs, choices."""

import keras
import models
import numpy as np
import pytest
from keras import layers

import tfmp
from tfmp import cost_model, hardware
from tfmp.conversion import layer_choice
from tfmp.conversion.defaults import DEFAULTS, PRECISIONS, default_of
from tfmp.conversion.layer_products import products_of
from tfmp.conversion.sizes import Sizes
from tfmp.cost_model import TARGETS, Product, Target

H200 = cost_model.get("h200")
SHAPE = (4, 12, 16)
IMAGE = (2, 9, 9, 16)


def with_a_float32_end():
    head = layers.Dense(32, name="head", dtype="float32")
    end = layers.Activation("linear", dtype="float32", name="end")
    return keras.Sequential(
        [keras.Input([16]), layers.Dense(32, name="first"), head, end]
    )


@pytest.mark.parametrize("policy", ["mixed_float8", "mixed_bfloat16"])
def test_a_layer_that_was_made_in_float32_stays(policy):
    model = with_a_float32_end()
    report = tfmp.convert(model, policy, filter="all")
    first, head = report.rows
    assert first.precision != "float32"
    assert (head.precision, head.reason) == (
        "float32",
        "its own dtype is float32",
    )
    assert model.predict(np.ones([2, 16]), verbose=0).dtype == "float32"
    tfmp.set_precision(model, {"sequential.*/head": policy})
    assert model.get_layer("head").compute_dtype == "bfloat16"  # by name


class Plain(keras.layers.Layer):
    """A layer without an `__init__`: Keras notes all arguments of it."""

    def call(self, x):
        return 2 * x


class Named(Plain):
    """A layer whose `__init__` names what all layers take."""

    def __init__(self, dtype=None, trainable=True, **kwargs):
        super().__init__(dtype=dtype, trainable=trainable, **kwargs)


@pytest.mark.parametrize("cls", [Plain, Named])
def test_own_layers_that_were_made_in_float32_stay(cls):
    kept, other = cls(dtype="float32"), cls()
    model = keras.Sequential([keras.Input([16]), layers.Dense(16), kept, other])
    tfmp.convert(model, filter="all")
    assert (kept.compute_dtype, other.compute_dtype) == ("float32", "bfloat16")


def test_nothing_is_known_of_a_layer_of_a_config():
    model = keras.models.clone_model(with_a_float32_end())
    tfmp.convert(model, filter="all")
    assert {each.compute_dtype for each in model.layers} == {"bfloat16"}


def test_what_is_in_a_layer_that_was_made_in_float32_stays():
    attention = layers.MultiHeadAttention(2, 16, dtype="float32")
    x = keras.Input([8, 32])
    model = keras.Model(x, layers.Dense(32)(attention(x, x)))
    tfmp.convert(model, filter="all")
    parts = attention._flatten_layers()
    assert {each.compute_dtype for each in parts} == {"float32"}


@pytest.mark.parametrize("cls", DEFAULTS, ids=lambda cls: cls.__name__)
def test_every_default_has_a_reason(cls):
    assert DEFAULTS[cls].precision in PRECISIONS and DEFAULTS[cls].reason


def test_what_runs_in_fp8_is_what_tfmp_has_layers_for():
    from tfmp.layers import classes
    from tfmp.layers.contraction import Float8Layer

    low = {
        c for c, default in DEFAULTS.items() if default.precision == "float8"
    }
    ours = {c for c, o in classes.OURS.items() if issubclass(o, Float8Layer)}
    assert low == ours


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        (layers.Activation("softmax"), "float32"),
        (layers.Activation("relu"), "compute"),
        (layers.ReLU(), "compute"),
        (layers.Dropout(0.5), "compute"),
        (layers.Bidirectional(layers.LSTM(2)), "compute"),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_defaults_of_other_layers(layer, precision):
    assert default_of(layer).precision == precision


def test_softmax_at_the_end_is_float32():
    model = keras.Sequential(
        [keras.Input([16]), layers.Dense(8), layers.Softmax()]
    )
    tfmp.convert(model)
    assert model(np.ones([1, 16])).dtype == "float32"


PRODUCTS = [
    (layers.Dense(8), SHAPE, [Product(48, 16, 8)]),
    (
        layers.EinsumDense("abc,cde->abde", (None, 4, 8)),
        SHAPE,
        [Product(48, 16, 32)],
    ),
    (
        layers.EinsumDense("abc,bcd->abd", (12, 8)),
        SHAPE,
        [Product(4, 16, 8, batch=12)],
    ),
    (layers.Conv1D(8, 3, 2), SHAPE, [Product(4 * 5, 48, 8)]),
    (layers.Conv2D(32, 3, groups=2), IMAGE, [Product(98, 72, 16, 2)]),
    (layers.Conv2D(32, 3, 2, "same"), IMAGE, [Product(50, 144, 32)]),
    (layers.DepthwiseConv2D(3), IMAGE, [Product(98, 9, 1, 16)]),
    (
        layers.SeparableConv2D(8, 3),
        IMAGE,
        [Product(98, 9, 1, 16), Product(98, 16, 8)],
    ),
    (layers.Conv2DTranspose(8, 3), IMAGE, [Product(162, 16, 72)]),
    (layers.LSTM(8), SHAPE, [Product(48, 16, 32), Product(4, 8, 32, 12)]),
    (layers.GRU(8), SHAPE, [Product(48, 16, 24), Product(4, 8, 24, 12)]),
    (layers.Embedding(10, 4), (4, 12), []),
    (layers.LayerNormalization(), SHAPE, []),
]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    PRODUCTS,
    ids=lambda x: getattr(x, "name", ""),
)
def test_products(layer, shape, expected):
    assert products_of(layer, Sizes()) == []
    layer.build(shape)
    found = products_of(layer, Sizes())
    plain = [(p.m, p.k, p.n, p.batch) for p in found]
    assert plain == [(p.m, p.k, p.n, p.batch) for p in expected]


def test_products_of_attention():
    layer = layers.MultiHeadAttention(2, 8, value_dim=4)
    layer.build((4, 12, 16), (4, 20, 16))
    scores, values = products_of(layer, Sizes())
    assert scores == Product(12, 8, 20, 8) and values == Product(12, 20, 4, 8)
    last = layer.output_dense
    assert products_of(last, Sizes(), layer) == [Product(48, 8, 16)]
    layer = layers.GroupQueryAttention(8, 4, 2)
    layer.build((4, 12, 16), (4, 20, 16), (4, 20, 16))
    assert products_of(layer, Sizes())[0] == Product(12, 8, 20, 16)


def test_open_lengths():
    layer = layers.Dense(8)
    layer.build((None, None, 16))
    sizes = Sizes(batch_size=3, length=5)
    assert products_of(layer, sizes) == [Product(15, 16, 8)]


# The cost model.


def test_large_products_pay_and_small_ones_do_not():
    gains = [
        cost_model.speedup(Product(n, n, n), H200)
        for n in (256, 512, 1024, 2048, 4096, 8192, 16384)
    ]
    assert gains == sorted(gains)
    assert gains[2] < 1 and gains[-1] > 1.6
    assert gains[-1] < H200.float8 / H200.bfloat16


def test_it_agrees_with_a_measured_layer():
    """FACTS of Transformer Engine: 1.53 to 1.55 for this whole layer."""
    tokens, hidden = 2048 * 8, 4096
    products = [
        Product(tokens, hidden, 3 * hidden),
        Product(tokens, hidden, hidden),
        Product(tokens, hidden, 4 * hidden),
        Product(tokens, 4 * hidden, hidden),
    ]
    wide = sum(cost_model.bfloat16_time(p, H200) for p in products)
    low = sum(cost_model.float8_time(p, H200) for p in products)
    assert 1.45 < wide / low < 1.75


@pytest.mark.parametrize("k", [1024, 2048, 4096])
def test_few_rows_are_as_in_a_known_rule_of_thumb(k):
    """K <= 4096 with N <= 1024, torchao: nothing; of many rows we differ."""
    few, many = Product(2048, k, 1024), Product(65536, k, 1024)
    assert cost_model.speedup(few, H200) < cost_model.BREAK_EVEN
    assert 1.1 < cost_model.speedup(many, H200) < 1.4


def test_padding_costs():
    even, odd = Product(8192, 4096, 4096), Product(8192, 4096, 4090)
    assert cost_model.speedup(odd, H200) < cost_model.speedup(even, H200)
    assert cost_model.unaligned(4096, 4090, 16) == [4090]


def test_products_that_stay_wide_gain_nothing():
    every = Product(8192, 8192, 8192)
    none = Product(8192, 8192, 8192, float8=(False, False, False))
    assert cost_model.speedup(none, H200) < 1 < cost_model.speedup(every, H200)


@pytest.mark.parametrize("name", TARGETS)
def test_rates_are_in_proportion_to_the_peaks(name):
    """Those of bfloat16 and FP8, to that of the H200 which was measured."""
    for kind in ("bfloat16", "float8"):
        peak = getattr(cost_model.PEAKS[name], kind)
        of_h200 = getattr(H200, kind) / getattr(cost_model.HOPPER, kind)
        rate = getattr(TARGETS[name], kind)
        assert rate == pytest.approx(of_h200 * peak, rel=5e-3)


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name):
    target = cost_model.get(name)
    assert cost_model.get(target) is target and target.name == name
    assert target.float8 > target.bfloat16


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_bad_targets(value):
    with pytest.raises(ValueError, match="`bandwidth`"):
        Target("mine", 1.0, 2.0, value)
    with pytest.raises(TypeError, match="`float8`"):
        Target("mine", 1.0, "fast", 1.0)


# Choices.


def stack():
    return keras.Sequential(
        [
            keras.Input([16]),
            layers.Dense(64, name="one"),
            layers.Dense(64, name="two"),
            layers.Dense(10, name="three"),
        ],
        name="stack",
    )


def converted(**options):
    report = tfmp.convert(stack(), **options)
    return {row.path: row for row in report.rows}


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, ["one", "two", "three"]),
        ({"filter": "all"}, ["one", "two", "three"]),
        ({"filter": "t.*"}, ["two", "three"]),
        ({"filter": ["one", "stack/two"]}, ["one", "two"]),
        ({"filter": lambda layer, path: layer.units == 64}, ["one", "two"]),
        ({"filter": lambda layer, path: path == "stack/one"}, ["one"]),
        ({"skip": ("first", "last")}, ["two"]),
        ({"filter": "t.*", "skip": ["last"]}, ["two"]),
        ({"filter": "auto", "target": "h200"}, []),
        ({"target": "h200"}, []),
    ],
)
def test_filters(options, chosen):
    rows = converted(**options)
    low = [p.split("/")[1] for p, r in rows.items() if r.precision == "float8"]
    assert low == chosen
    assert all(
        bool(r.reason) == (r.precision != "float8") for r in rows.values()
    )


def test_auto_depends_on_what_is_assumed():
    def share(**options):
        model = keras.Sequential([keras.Input([4096]), layers.Dense(4096)])
        return tfmp.convert(model, **options).float8_share

    assert share(target="h200", batch_size=8) == 0.0
    assert share(target="h200", batch_size=8192) == 1.0
    slow = Target("slow memory", 788, 1453, bandwidth=0.1)
    assert share(target=slow, batch_size=8192) == 0.0


def test_auto_waits_until_a_layer_is_built():
    model = keras.Sequential([layers.Dense(4096), layers.Dense(4)])
    report = tfmp.convert(model, target="h200")
    assert {row.precision for row in report.rows} <= {"bfloat16"}
    model(keras.ops.zeros([8192, 4096]))
    assert [row.precision for row in report.rows] == ["float8", "bfloat16"]
    assert "0." in report.rows[1].reason


def test_the_machine_is_the_target(monkeypatch):
    def machine(name, capability=(9, 0)):
        device = hardware.Device("gpu", name, capability)
        return hardware.Hardware((device,))

    assert layer_choice.target_of(machine("NVIDIA H200")).name == "h200"
    assert layer_choice.target_of(machine("NVIDIA L4", (8, 9))).name == "l4"
    assert layer_choice.target_of(machine("NVIDIA New", (12, 0))).name == "h100"
    geforce = layer_choice.target_of(machine("GeForce RTX 4090", (8, 9)))
    assert geforce.name == "rtx4090"
    assert layer_choice.target_of(machine("NVIDIA A100", (8, 0))) is None
    monkeypatch.setattr(
        hardware, "detect", lambda: machine("NVIDIA L4", (8, 9))
    )
    assert "on l4" in tfmp.convert(stack()).rule


def test_a_filter_that_answers_something_else():
    with pytest.raises(TypeError, match="`filter` must return"):
        tfmp.convert(stack(), filter=lambda layer, path: "yes")


def test_what_float16_says_of_what_stays():
    rows = converted(policy="mixed_float16")
    assert {r.precision for r in rows.values()} == {"float16"}
    assert {r.reason for r in rows.values()} == {"asked for"}


def test_a_named_layer_leaves_its_default_if_it_runs_so():
    """XLA cannot compile the gradient of resizing; the report says so."""
    model = keras.Sequential(
        [
            keras.Input([4, 4, 2]),
            layers.UpSampling2D(interpolation="bilinear", name="resizes"),
            layers.Softmax(name="named"),
            layers.Softmax(name="other"),
        ]
    )
    named = dict.fromkeys(["resizes", "named"], "mixed_bfloat16")
    report = tfmp.convert(model, tfmp.PrecisionMap(named, "mixed_float8"))
    found = [layer.compute_dtype for layer in model.layers]
    assert found == ["float32", "bfloat16", "float32"]
    (said,) = report.notes
    assert "resizes stays in float32: " in said and "XLA cannot" in said
    notes = tfmp.convert(model, {"named": "mixed_float8"}).notes
    assert model.layers[1].compute_dtype == "float32"
    assert any("named stays in float32: a sum of" in said for said in notes)
    assert not tfmp.set_precision(model, {".*": "mixed_bfloat16"}).notes


def test_own_code_is_listed_with_a_reason():
    class Scale(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1], shape[-1]))

        def call(self, x):
            return keras.ops.matmul(x, self.scale)

    model = keras.Sequential([keras.Input([8]), Scale(), layers.Dense(4)])
    report = tfmp.convert(model)
    assert "code of its own" in report.rows[0].reason
    assert "code of its own" in str(report)


def test_the_printed_report():
    model = models.wrapped()
    report = tfmp.convert(model, skip=("last",))
    text = str(report)
    assert text == repr(report)
    first, *lines = text.splitlines()
    assert first.split() == [
        "layer", "type", "precision", "products", "share", "why"
    ]  # fmt: skip
    lstm = next(line for line in lines if "forward_lstm" in line)
    assert "cuDNN" in lstm and "bfloat16" in lstm
    assert "left out by `skip`" in text and "1 Softmax (float32)" in text
    shares = [
        float(word[:-1])
        for line in lines[: len(report.rows)]
        for word in line.split()
        if word.endswith("%") and "FP8:" not in line
    ]
    assert sum(shares) == pytest.approx(100, abs=1)
