"""After a change of precision nothing runs that was compiled before it."""

from __future__ import annotations

import gc
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

import tfmp
from tfmp.conversion import programs

X = np.random.default_rng(0).normal(size=[16, 8]).astype("float32")
Y = X.sum(-1, keepdims=True)


def make():
    keras.utils.set_random_seed(0)
    start = keras.Input([8])
    x = keras.layers.Dense(32, "relu", name="inner")(start)
    x = keras.layers.Dense(1, name="head")(x)
    return keras.Model(start, x, name="net")


def predict(model):
    return model.predict(X, verbose=0)


def expected(model):
    """What the layers give now, without anything compiled."""
    return np.array(model(X))


CHANGES = {
    "convert": lambda model: tfmp.convert(model),
    "set_precision": lambda model: tfmp.set_precision(model, "mixed_bfloat16"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_predict_of_a_model_never_compiled(change):
    model = make()
    before = predict(model)
    CHANGES[change](model)
    after = predict(model)
    assert (after != before).any()
    np.testing.assert_allclose(after, expected(model), rtol=2e-2, atol=2e-2)
    tfmp.revert(model)
    np.testing.assert_allclose(predict(model), before, rtol=1e-6)


@pytest.mark.slow_but("[sharing")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", ["layer", "submodel", "sharing"])
def test_a_part_that_is_changed_changes_the_whole(change, part):
    """And a model that shares layers: features of a trained one."""
    inner = make()
    start = keras.Input([8])
    whole = keras.Model(start, keras.layers.Dense(1)(inner(start)))
    features = keras.Model(inner.input, inner.get_layer("inner").output)
    whole.compile(tfmp.optimizers.LossScaleOptimizer("sgd"), "mse")
    whole.fit(X, Y, verbose=0)
    before = predict(whole), predict(features)
    layer = inner.get_layer("inner")
    changed = {"layer": layer, "submodel": inner, "sharing": features}[part]
    CHANGES[change](changed)
    for old, model in zip(before, (whole, features), strict=True):
        now = predict(model)
        assert (now != old).any()
        np.testing.assert_allclose(now, expected(model), rtol=3e-2, atol=3e-2)
    whole.fit(X, Y, verbose=0)
    if change == "convert":  # the whole one's optimizer keeps the windows
        history = np.array(whole.optimizer.amax_history.numpy())
        assert (layer.float8.amax.numpy() > 0).all() and history.any()
    tfmp.revert(changed)
    for model in (whole, features):
        np.testing.assert_allclose(
            predict(model), expected(model), rtol=1e-5, atol=1e-6
        )


def test_a_scheduler_reaches_a_model_that_shares_layers():
    model = make()
    features = keras.Model(model.input, model.get_layer("inner").output)
    before = predict(features)
    tfmp.convert(model, "mixed_bfloat16")
    assert (predict(features) != before).any()
    in_bfloat16 = predict(features)
    model.compile(
        tfmp.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)), "mse"
    )
    schedule = tfmp.callbacks.PrecisionScheduler({1: "mixed_float8"})
    model.fit(X, Y, epochs=3, callbacks=[schedule], verbose=0)
    assert (predict(features) != in_bfloat16).any()


class Generates(keras.Model):
    """Keeps a compiled function as the tasks of keras-hub do."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(8)
        self.generate_function = None

    def call(self, x):
        return self.dense(x)

    def make_generate_function(self):
        if self.generate_function is None:
            self.generate_function = tf.function(self.call, jit_compile=True)
        return self.generate_function

    def generate(self, x):
        return self.make_generate_function()(x).numpy()


def test_a_function_that_a_task_keeps_is_made_again():
    model = Generates()
    before = model.generate(X)
    tfmp.convert(model)
    assert (model.generate(X) != before).any()
    tfmp.revert(model)
    np.testing.assert_allclose(model.generate(X), before, rtol=1e-5, atol=1e-6)


def test_a_function_of_the_users_own_is_named():
    model = make()

    @tf.function
    def serve(x):
        return model(x)

    @tf.function
    def not_traced(x):
        return model(x)

    serve(X)
    with pytest.warns(
        RuntimeWarning, match=r"'serve' \(test_stale_pro"
    ) as said:
        tfmp.convert(model)
    assert len([w for w in said if "tf.function" in str(w.message)]) == 1
    again = tf.function(serve.python_function)
    np.testing.assert_allclose(again(X), expected(model), rtol=2e-2, atol=2e-2)
    del serve, again, said
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tfmp.revert(model)


class Served:
    """A function with a signature, which TensorFlow can trace at any time."""

    ran = False

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def serve(self, x):
        Served.ran = True
        return x


def test_looking_for_functions_traces_none():
    of_an_object = Served().serve
    of_the_class = Served.serve  # to trace it is an error: no `self`
    model = make()
    tfmp.convert(model)
    tfmp.revert(model)
    assert not Served.ran
    del of_an_object, of_the_class


def test_models_of_other_layers_are_left_alone():
    model, other = make(), make()
    predict(model), predict(other)
    kept = other.predict_function
    tfmp.convert(model)
    assert other.predict_function is kept
    assert programs.holders(other.layers) == [other]


def graphs_alive():
    gc.collect()
    return sum(type(each) is FuncGraph for each in gc.get_objects())


@pytest.mark.slow
def test_programs_that_were_dropped_are_gone():
    model = make()
    tfmp.convert(model)
    model.compile(
        tfmp.optimizers.LossScaleOptimizer("adam"), "mse", jit_compile=False
    )
    counts = []
    for policy in ("mixed_bfloat16", "mixed_float8") * 3:
        tfmp.set_precision(model, policy)
        model.fit(X, Y, verbose=0)
        counts.append(graphs_alive())
    assert counts[-1] <= max(counts[:2])


@pytest.mark.slow
def test_a_model_that_is_deleted_leaves_no_graph():
    def train():
        model = make()
        tfmp.convert(model)
        model.compile(
            tfmp.optimizers.LossScaleOptimizer("adam"), "mse", jit_compile=False
        )
        model.fit(X, Y, verbose=0)

    counts = []
    for _ in range(4):
        train()
        keras.utils.clear_session()
        counts.append(graphs_alive())
    assert counts[-1] <= counts[1]
