"""A symbolic call: whatever is in a model, it fails and changes nothing."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfmp
from tfmp.conversion import graph_products, tracing
from tfmp.conversion.sizes import Sizes
from tfmp.cost_model import Product


def model_of(*inside, shape=(4, 16)):
    return keras.Sequential([keras.Input(shape), *inside], name="net")


@tf.function
def count_one(model):
    model.count.assign_add(1.0)


class Helper:
    """Somebody's object that no layer knows of."""

    step = tf.function(lambda self, model: model.count.assign_add(1.0))


class Counting(keras.Model):
    """Counts its calls by a function that is kept in any of these places."""

    def __init__(self, place):
        super().__init__()
        self.dense = layers.Dense(4)
        self.steps = [tf.function(lambda model: model.count.assign_add(1.0))]
        self.place, self.helper = place, Helper()

    def build(self, shape):
        self.count = self.add_weight(initializer="zeros", trainable=False)
        self.dense.build(shape)

    def call(self, x):
        steps = {
            "module": count_one,
            "helper": self.helper.step,
            "list": self.steps[0],
        }
        steps[self.place](self)
        return self.dense(x)


@pytest.mark.parametrize("place", ["module", "helper", "list"])
def test_training_after_a_report_still_counts(place):
    model = Counting(place)
    model.build((2, 16))
    said = str(tfmp.ConversionReport(model))
    model.compile("sgd", "mse")
    x, y = np.ones((4, 16), "float32"), np.ones((4, 4), "float32")
    model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    assert float(model.count) == 4.0
    assert "it calls a tf.function" in said


def test_no_function_is_traced_by_another_name():
    class Concrete(layers.Layer):
        def build(self, shape):
            self.function = tf.function(lambda x: x + 1.0)

        def call(self, x):
            if tf.executing_eagerly():
                return x
            return self.function.get_concrete_function(x)(x)

    layer = Concrete()
    layer.build((2, 16))
    said = str(tfmp.ConversionReport(layer))
    assert layer.function.experimental_get_tracing_count() == 0
    assert "it calls a tf.function" in said


def test_what_has_functions_of_its_own_is_not_called():
    """Their traces would be kept, without what they assign."""

    class Own(layers.Dense):
        @tf.function
        def call(self, x):
            return super().call(x)

    report = tfmp.ConversionReport(model_of(Own(8)))
    assert "it calls a tf.function" in str(report)
    assert tf.function(lambda: 1)() == 1


def test_functions_of_keras_are_no_reason_not_to_call():
    """Keras has a grouped convolution run by a function of its own."""
    model = model_of(layers.Conv1D(8, 3, groups=2))
    report = tfmp.ConversionReport(model, sizes=Sizes(2))
    assert report.trace.failure == ""


def test_operators_of_tfmp_are_no_reason_not_to_call():
    class Own(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(16, 16))

        def call(self, x):
            return tfmp.ops.matmul(x, self.kernel)

    model = model_of(Own())
    report = tfmp.ConversionReport(model, sizes=Sizes(2))
    assert report.trace.failure == ""
    x = np.ones([2, 4, 16], "float32")
    in_float8 = tfmp.ops.matmul(x, model.layers[0].kernel)
    np.testing.assert_array_equal(model.predict(x, verbose=0), in_float8)


class Unusual(layers.Layer):
    """Multiplies what no matrix product is, beside one that is."""

    def build(self, shape):
        self.dense = layers.Dense(16, name="dense")
        self.dense.build(shape)

    def call(self, x):
        square = x[:, :, :4]
        unknown = tf.numpy_function(lambda a: a, [x], tf.float32)
        found = [
            ops.einsum("bij,bik->bk", x, x),
            tf.einsum("bii,bij->bj", square, x),
            tf.einsum(",bij->bij", x[0, 0, 0], x),
            tf.matmul(unknown, unknown, transpose_b=True),
            tf.einsum("...ij,kj->...ik", x, x[0]),
        ]
        return self.dense(x) + sum(map(tf.reduce_sum, found))


def test_unusual_products_are_counted_or_said_to_be_hidden():
    model = model_of(Unusual(name="own"))
    report = tfmp.convert(model, filter="auto", target="h200", batch_size=2)
    rows = {row.path.split("/")[-1]: row for row in report.rows}
    assert rows["dense"].products == ("8 x 16 x 16",)
    assert rows["own"].products == (
        *("2 of 1 x 4 x 16", "2 of 1 x 4 x 16", "8 x 16 x 4"),
    )
    assert "loops and functions in the code of Unusual" in str(report)
    tfmp.summary(model, print_fn=str)


@pytest.mark.parametrize(
    "equation, lhs, rhs, product",
    [
        ("ij,jk->ik", (2, 3), (3, 4), Product(2, 3, 4)),
        ("bij,bik->bk", (2, 3, 4), (2, 3, 5), Product(1, 3, 5, 2)),
        ("bii,bij->bj", (2, 3, 3), (2, 3, 5), Product(1, 3, 5, 2)),
        ("...ij,...jk->...ik", (7, 2, 3), (3, 4), Product(14, 3, 4)),
        ("...ij,...jk->...ik", (7, 2, 3), (1, 3, 4), Product(2, 3, 4, 7)),
        (",ij->ij", (), (2, 3), Product(1, 1, 6)),
    ],
)
def test_einsums_by_their_labels(equation, lhs, rhs, product):
    assert graph_products.of_einsum(equation, lhs, rhs) == product


@pytest.mark.parametrize("lhs, rhs", [((2, 3), (4, 4)), ((2,), (3, 4))])
def test_einsums_that_do_not_fit(lhs, rhs):
    with pytest.raises(ValueError):
        graph_products.of_einsum("ij,jk->ik", lhs, rhs)


class Meanwhile(layers.Layer):
    """Has another thread call the model while it is looked at."""

    def build(self, shape):
        self.seen = None

    def call(self, x):
        if self.seen is not None and not tf.executing_eagerly():
            thread = threading.Thread(target=self.seen)
            thread.start()
            thread.join()
        return x


def test_other_threads_call_the_model_as_it_is():
    layer, got = Meanwhile(), []
    model = model_of(layers.Dense(16, name="dense"), layer)
    tfmp.convert(model, filter="all")
    x = np.random.default_rng(0).normal(size=(2, 4, 16)).astype("float32")
    alone = model(x)

    def call():
        functions = tf.function(lambda: tf.constant(1.0))
        got.append((model(x), functions(), model.layers[0].recipe))

    layer.seen = call
    report = tfmp.ConversionReport(model, sizes=Sizes(2))
    row = next(row for row in report.rows if row.path.endswith("dense"))
    layer.seen = None
    assert got and all(recipe is not None for _, _, recipe in got)
    for outputs, _, _ in got:
        assert outputs.dtype == alone.dtype == "bfloat16"
        np.testing.assert_array_equal(outputs, alone)
    assert (row.calls, row.products) == (1, ("8 x 16 x 16",))
    assert report.trace.failure == ""


class Tokens(keras.Model):
    """Takes token ids, and does not say so."""

    def build(self, shape):
        self.table = self.add_weight(shape=(10, 16), name="table")
        self.dense = layers.Dense(8, name="dense")
        self.dense.build((*shape, 16))

    def call(self, x):
        return self.dense(tf.gather(tf.convert_to_tensor(self.table), x))


def test_token_ids_of_subclassed_models():
    model = Tokens()
    model.build((2, 6))
    report = tfmp.ConversionReport(model)
    assert report.counted.startswith(
        "all products of one symbolic call on int32 (2, 6)"
    )
    assert [row.products for row in report.rows][-1] == ("12 x 16 x 8",)


def test_a_model_that_is_not_built_is_said_to_be():
    model = keras.Sequential([layers.Dense(4)])
    assert "it is not built yet" in str(tfmp.convert(model))
    failure = tracing.trace(Tokens(), Sizes()).failure
    assert failure == "it is not built yet"
