"""What works with Keras' classes works with tfmp's in their place."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp.optimizers import LossScaleOptimizer

POLICIES = [
    *map(keras.DTypePolicy, ("float16", "mixed_bfloat16", "mixed_float16")),
    tfmp.Policy("mixed_bfloat16"),
    tfmp.Policy("mixed_float8", "current"),
]
LAYERS = {
    "dense": lambda dtype: tfmp.layers.Dense(4, dtype=dtype),
    "einsum": lambda dtype: tfmp.layers.EinsumDense(
        "ab,bc->ac", 4, dtype=dtype
    ),
    "norm": lambda dtype: tfmp.layers.BatchNormalization(dtype=dtype),
}


def compiled(optimizer):
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_config_keeps_the_class_of_the_policy(make, policy):
    model = keras.Sequential([keras.Input([4]), make(policy)])
    text = model.to_json()
    again = keras.models.model_from_json(text)
    assert type(again.layers[0].dtype_policy) is type(policy)
    assert again.layers[0].dtype_policy == policy
    assert json.loads(again.to_json()) == json.loads(text)


def test_a_model_in_float16_of_keras_gains_no_loss_scale():
    layer = tfmp.layers.Dense(1, dtype=keras.DTypePolicy("float16"))
    model = keras.Sequential([keras.Input([4]), layer])
    again = keras.models.model_from_json(model.to_json())
    for each in (model, again):
        each.compile("sgd", "mse")
        assert type(each.optimizer) is keras.optimizers.SGD


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("name", ["Dense", "EinsumDense"])
def test_quantize_without_a_recipe(name, mode):
    arguments = (4,) if name == "Dense" else ("ab,bc->ac", 4)
    ours = getattr(tfmp.layers, name)(*arguments, dtype="float32")
    stock = getattr(keras.layers, name)(*arguments, dtype="float32")
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    for layer in (ours, stock):
        layer.build((None, 8))
    ours.set_weights(stock.get_weights())
    for layer in (ours, stock):
        layer.quantize(mode)
    assert ours.dtype_policy == stock.dtype_policy
    assert np.array_equal(ours(x), stock(x))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_gradients_of_numpy(dtype):
    variable = keras.Variable([1.0, 2.0])
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.5), 8.0)
    optimizer.build([variable])
    optimizer.apply([np.array([8.0, 16.0], dtype)], [variable])
    assert np.array_equal(variable, [0.5, 1.0])
    optimizer.apply([np.array([np.inf, 16.0], dtype)], [variable])
    assert np.array_equal(variable, [0.5, 1.0])
    assert optimizer.statistics["skipped_steps"] == 1


def test_a_config_of_keras_loads():
    stock = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.25), 4.0, dynamic_growth_steps=7, name="given"
    )
    config = stock.get_config()
    old = {"use_ema": False, "ema_momentum": 0.99, "clipnorm": None}
    for each in (config, config | old):
        ours = LossScaleOptimizer.from_config(each)
        assert (ours.initial_scale, ours.rule.growth_steps) == (4.0, 7)
        assert ours.name == "given"
        assert float(ours.inner_optimizer.learning_rate) == 0.25
    assert (
        LossScaleOptimizer("sgd", dynamic_growth_steps=3).get_config()[
            "growth_steps"
        ]
        == 3
    )


@pytest.mark.parametrize("name", ["clipnorm", "use_ema", "weight_decay"])
def test_what_belongs_on_the_inner_optimizer(name):
    with pytest.raises(ValueError, match=r"on the `inner_opt.*Received: "):
        LossScaleOptimizer("sgd", **{name: 2})


def test_an_argument_that_there_is_not():
    with pytest.raises(ValueError, match=r"arguments: `foo`.*Received: "):
        LossScaleOptimizer("sgd", foo=1)


def multi():
    bias = {".*bias": keras.optimizers.SGD(0.5, name="bias")}
    rest = keras.optimizers.SGD(0.25, name="rest")
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(rest, bias)
    )


@pytest.mark.parametrize("wrap", [lambda given: given, LossScaleOptimizer])
@pytest.mark.parametrize(
    ("callback", "rates"),
    [
        (lambda: keras.callbacks.LearningRateScheduler(lambda _, r: r / 2), 2),
        (
            lambda: keras.callbacks.ReduceLROnPlateau(
                "loss", 0.5, patience=1, min_delta=1e6
            ),
            1,
        ),
    ],
)
def test_learning_rates_of_parts(wrap, callback, rates):
    optimizer = multi()
    model = compiled(wrap(optimizer))
    x, y = tf.ones([4, 4]), tf.ones([4, 1])
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback()])
    found = [float(each.learning_rate) for each in optimizer.optimizers]
    assert found == [0.5 / 2**rates, 0.25 / 2**rates]


def test_only_a_multi_optimizer_has_parts():
    assert not hasattr(LossScaleOptimizer("sgd"), "optimizers")
    assert len(LossScaleOptimizer(multi()).optimizers) == 2
