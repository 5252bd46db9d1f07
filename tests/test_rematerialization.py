"""`keras.RematScope` and `keras.remat`: recomputed layers are the same."""

from __future__ import annotations

import contextlib

import keras
import modes
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp._core.observations import SEEN, SINCE
from tfmp.layers.float8_state import all_states

MAKE = {
    "dense": lambda: tfmp.layers.Dense(16, "gelu", dtype="mixed_float8"),
    "conv": lambda: tfmp.layers.Conv1D(16, 3, dtype="mixed_float8"),
    "attention": lambda: tfmp.layers.MultiHeadAttention(
        2, 8, dtype=tfmp.Policy("mixed_float8", RECIPE)
    ),
    "norm": lambda: tfmp.layers.BatchNormalization(dtype="mixed_float8"),
    "emulated": lambda: tfmp.layers.Dense(
        *(16, "gelu"), dtype=tfmp.Policy("mixed_float8", EMULATED)
    ),
}
EMULATED = tfmp.recipes.Emulated("E2M1", rounding="stochastic")
RECIPE = tfmp.recipes.DelayedScaling(attention=True)


def gradients(kind, how, run):
    """Returns the gradients of one step, and what it has observed."""
    keras.utils.set_random_seed(0)
    scope = contextlib.nullcontext()
    if how == "scope":
        scope = keras.RematScope(mode="activations")
    with scope:
        layer = MAKE[kind]()
    inputs = 2 if kind == "attention" else 1
    x = tf.random.stateless_normal([4, 6, 16], [0, 1])
    layer(*[x] * inputs)

    # TensorFlow's recompute_grad takes no keywords in a graph.
    def call(x):
        return layer(*[x] * inputs, training=True)

    call = keras.remat(call) if how == "remat" else call

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(tf.cast(call(x), tf.float32)))
        variables = [v.value for v in layer.trainable_variables]
        return tape.gradient(loss, [x, *variables])

    found = [g.numpy() for g in run(step)(x)]
    observed = [state.variable.numpy() for state in all_states(layer)]
    assert len(observed) == {"norm": 0, "emulated": 0, "attention": 4}.get(
        kind, 1
    )
    assert all((each[[SEEN, SINCE]] > 0).all() for each in observed)
    return found + observed


@pytest.mark.slow_but("[dense-eager]", "[dense-graph]", "[norm")
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *[("dense", mode) for mode in modes.MODES],
        ("conv", "graph"),
        ("attention", "graph"),
        ("attention", "xla"),
        ("norm", "eager"),
        ("emulated", "graph"),
    ],
)
def test_gradients_and_amax_are_those_without(kind, mode):
    run = modes.MODES[mode]
    plain = gradients(kind, None, run)
    for how in ("scope", "remat"):
        again = gradients(kind, how, run)
        assert len(again) == len(plain) >= 3
        for expected, value in zip(plain, again, strict=True):
            np.testing.assert_array_equal(expected, value)


@pytest.mark.slow
def test_training_is_that_without():
    models = []
    for mode in ("activations", None):
        keras.utils.set_random_seed(0)
        with keras.RematScope(mode=mode):
            layers = [tfmp.layers.Dense(16, "relu", dtype="mixed_float8")]
        model = keras.Sequential(
            [
                keras.Input([16]),
                *layers,
                tfmp.layers.Dense(1, dtype="mixed_float8"),
            ]
        )
        optimizer = tfmp.optimizers.LossScaleOptimizer("adam", 8.0)
        model.compile(optimizer, "mse", jit_compile=False)
        x = np.random.default_rng(0).normal(size=[32, 16])
        model.fit(x, x[:, :1], 8, verbose=0, shuffle=False)
        models.append([*model.variables, *optimizer.variables])
    for one, other in zip(*models, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
