"""Numbers that 16 bits would spoil reach the layer that takes them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfmp

RNG = np.random.default_rng(0)
PRICES = (1e5 + 50 * RNG.normal(size=(256, 1))).astype("float32")
TARGETS = (PRICES - 1e5) / 50
IDS = RNG.integers(0, 3000, size=(64, 1)).astype("float32")
NARROW = ("mixed_bfloat16", "mixed_float16", "mixed_float8")


def adapted():
    norm = layers.Normalization()
    norm.adapt(PRICES)
    return norm


class Code(keras.Model):
    """A user's model of one layer that takes the inputs, and a head."""

    def __init__(self, code, **inner):
        super().__init__()
        self.code = code
        for name, layer in inner.items():
            setattr(self, name, layer)
        self.hidden = layers.Dense(32, "relu", name="hidden")
        self.head = layers.Dense(1, name="head")

    def call(self, inputs):
        return self.head(self.code(self, inputs))


def plain():
    return Code(lambda m, x: m.hidden(m.norm(x)), norm=adapted())


def by_hand():
    return Code(lambda m, x: m.hidden((x - 1e5) / 50))


def joined():
    def code(model, x):
        x = model.norm(x)
        return tf.concat([x, model.hidden(x)], -1)

    return Code(code, norm=adapted())


def nested():
    class Inner(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = adapted()
            self.wide = layers.Dense(8, name="wide")

        def call(self, x):
            return self.wide(self.norm(x))

    return Code(lambda m, x: m.hidden(m.prepare(x)), prepare=Inner())


def of_a_dictionary():
    return Code(lambda m, x: m.hidden(m.norm(x["price"])), norm=adapted())


def sequential():
    return keras.Sequential(
        [adapted(), layers.Dense(32, "relu"), layers.Dense(1)]
    )


def rescaled():
    scale = layers.Rescaling(1 / 50, offset=-1e5 / 50)
    return Code(lambda m, x: m.hidden(m.scale(x)), scale=scale)


def repeated():
    inputs = keras.Input([1, 1])
    x = layers.TimeDistributed(adapted())(inputs)
    x = layers.Dense(1)(layers.Dense(32, "relu")(x))
    return keras.Model(inputs, layers.Flatten()(x))


MODELS = (
    *(plain, by_hand, joined, nested, of_a_dictionary),
    *(sequential, rescaled, repeated),
)


def loss_of(make, policy, way):
    """Trains a model, and returns its loss in the end."""
    x = {"price": PRICES} if make is of_a_dictionary else PRICES
    if make is repeated:
        x = PRICES[:, None]
    keras.utils.set_random_seed(0)
    given = policy if way == "global" else "float32"
    with tfmp.policy_scope(given, convert=False):
        model = make()
        if way == "converted":
            model(keras.tree.map_structure(lambda a: a[:2], x))
        if way != "global":
            tfmp.convert(model, policy, filter="all")
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        model.fit(x, TARGETS, epochs=15, verbose=0)
    return model.evaluate(x, TARGETS, verbose=0)[0]


@pytest.mark.slow
@pytest.mark.parametrize("make", MODELS)
def test_prices_are_learnt_as_in_float32(make):
    expected = loss_of(make, "float32", "global")
    number = MODELS.index(make)
    ways = ("global", "converted", "converted before it is built")
    for offset, way in enumerate(ways):
        policy = NARROW[(number + offset) % 3]
        assert loss_of(make, policy, way) < expected + 0.02, (policy, way)


def test_the_comparison_can_fail():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = plain()
    model.compile("adam", "mse")
    assert model.evaluate(PRICES, TARGETS, verbose=0) > 0.1


@pytest.mark.parametrize("way", ["global", "converted"])
@pytest.mark.parametrize("policy", NARROW)
def test_ids_as_floats_find_their_row(policy, way):
    keras.utils.set_random_seed(0)
    given = policy if way == "global" else "float32"
    with tfmp.policy_scope(given, convert=False):
        embedding = layers.Embedding(3000, 8)
        model = Code(lambda m, x: m.hidden(m.embed(x)), embed=embedding)
        model(IDS[:2])
        if way == "converted":
            tfmp.convert(model, policy, filter="all")
    seen = []
    embedding.call = _noting(embedding.call, seen)
    model(IDS)
    np.testing.assert_array_equal(seen[0], IDS)


def _noting(call, seen):
    def noting(inputs):
        seen.append(inputs)
        return call(inputs)

    return noting


@pytest.mark.parametrize("policy", NARROW)
@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (lambda: layers.Discretization([1e5 - 1, 1e5 + 1]), PRICES),
        (lambda: layers.IntegerLookup(vocabulary=[257, 1025]), IDS),
        (lambda: layers.Hashing(1000), IDS.astype("int64")),
        (lambda: layers.CategoryEncoding(3000), IDS),
        (lambda: layers.Rescaling(2.0), PRICES),
        (adapted, PRICES),
    ],
    ids=["bins", "lookup", "hashing", "encoding", "rescaling", "normalization"],
)
def test_preprocessing_is_that_of_float32(policy, layer, inputs):
    def model_of():
        symbols = keras.Input(inputs.shape[1:], dtype=str(inputs.dtype))
        return keras.Model(symbols, layer()(symbols))

    expected = model_of()(inputs)
    with tfmp.policy_scope(policy):
        made = model_of()
    converted = model_of()
    tfmp.convert(converted, policy, filter="all")
    for model in (made, converted):
        np.testing.assert_array_equal(model(inputs), expected)


def test_code_of_one_dtype_goes_on_and_the_report_says_so():
    def code(model, x):
        return tf.concat([x, model.hidden(model.norm(x))], -1)

    model = Code(code, norm=adapted())
    model(PRICES[:2])
    report = tfmp.convert(model, filter="all")
    assert model(PRICES).dtype == "bfloat16"
    assert len(report.rounded) == 1
    assert "in bfloat16" in str(report)
    plain_report = tfmp.convert(built(plain), filter="all")
    assert not plain_report.rounded


def built(make):
    model = make()
    model(PRICES[:2])
    return model


def test_what_a_residual_carries_on_stays_in_16_bits():
    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def call(self, x):
            return keras.ops.add(x, self.dense(x))

    inputs = keras.Input([4])
    model = keras.Model(inputs, Block()(Block()(inputs)))
    tfmp.convert(model, filter="all")
    assert model(np.ones([2, 4])).dtype == "bfloat16"


def test_revert_gives_the_casts_back():
    model = built(plain)
    tfmp.convert(model, filter="all")
    assert not model.autocast
    tfmp.revert(model)
    assert model.autocast and type(model) is Code


def absolute_error(y_true, y_pred):
    return keras.ops.abs(y_true - y_pred)


@pytest.mark.parametrize("policy", NARROW)
@pytest.mark.parametrize(
    "metric",
    [
        "mae",
        keras.metrics.MeanAbsoluteError,
        absolute_error,
        keras.losses.mean_absolute_error,
    ],
    ids=["name", "class", "function", "function of Keras"],
)
def test_metrics_are_those_of_float32(policy, metric):
    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(64, 4)).astype("float32")
    y = (300.3 + RNG.random((64, 1))).astype("float32")
    with tfmp.policy_scope(policy, convert=False):
        model = keras.Sequential([keras.Input([4]), layers.Dense(1)])
        given = metric() if isinstance(metric, type) else metric
        model.compile("sgd", absolute_error, metrics=[given])
    loss, value = model.evaluate(x, y, verbose=0)
    outputs = np.float32(keras.ops.cast(model(x), "float32"))
    expected = np.abs(outputs - y).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert value == pytest.approx(expected, rel=1e-5)


def test_metrics_without_tfmp_round_the_labels():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential([keras.Input([1]), layers.Dense(1)])
    model.set_weights([np.zeros([1, 1]), np.zeros([1])])
    model.compile("sgd", "mae", metrics=["mae"])
    y = np.full([4, 1], 257.0)
    loss, value = model.evaluate(np.ones([4, 1]), y, verbose=0)
    assert loss == 257 and value == 256


def test_metrics_keep_the_mask():
    x = np.array([[1, 2, 0, 0]])
    y = np.array([[[1.0], [1.0], [9.0], [9.0]]])
    values = {}
    for policy in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        with tfmp.policy_scope(policy):
            model = keras.Sequential(
                [layers.Embedding(3, 4, mask_zero=True), layers.Dense(1)]
            )
            model.compile("sgd", "mae", weighted_metrics=["mae"])
        values[policy] = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(*values.values(), rtol=0.02)
