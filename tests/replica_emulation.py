"""What a process of `replicas.py` does with layers that are emulated."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import replica_programs
import replicas
import tensorflow as tf

import tfmp

STEPS, RATE = 2, 1e-3


def emulated(strategy: Any) -> dict[str, Any]:
    """Trains on replicas, and by the same gradients one after the other."""
    x, y, _ = (each[: STEPS * replicas.ROWS] for each in replicas.data())
    with strategy.scope():
        model = _model()
        sgd = keras.optimizers.SGD(RATE)
        scaled = tfmp.optimizers.LossScaleOptimizer(sgd, 1.0, dynamic=False)
        model.compile(scaled, "mse", jit_compile=False)
    found = replica_programs.fit_and_watch(strategy, model, x, y)
    alone, number = _model(), strategy.num_replicas_in_sync
    for batch in zip(np.split(x, STEPS), np.split(y, STEPS), strict=True):
        parts = zip(*(np.split(each, number) for each in batch), strict=True)
        gradients = [_gradients(alone, *part, number) for part in parts]
        for weight, *own in zip(alone.weights, *gradients, strict=True):
            weight.assign_sub(RATE * sum(own))
    weights = [each.get_weights() for each in (model, alone, _model())]
    found["weights"], found["alone"], found["first"] = (
        [w.tolist() for w in each] for each in weights
    )
    return found


def _model() -> keras.Sequential:
    keras.utils.set_random_seed(0)
    recipe = tfmp.recipes.Emulated("MXFP4", backward_rounding="stochastic")
    policy = tfmp.Policy("mixed_float8", recipe=recipe)
    layers = [
        tfmp.layers.Dense(8, "relu", dtype=policy, name="first"),
        keras.layers.Dense(1, dtype="float32", name="second"),
    ]
    return keras.Sequential([keras.Input([replicas.WIDTH]), *layers])


def _gradients(model: Any, x: Any, y: Any, replicas: int) -> list[Any]:
    """Returns what one replica adds: of its mean, by the number of them."""
    with tf.GradientTape() as tape:
        error = model(x, training=True) - y
        loss = tf.reduce_mean(tf.square(error)) / replicas
    return tape.gradient(loss, [w.value for w in model.trainable_variables])
