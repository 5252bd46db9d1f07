"""Pruning under a strategy, run by a process of `replicas.py`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfmp


def prune(strategy: Any) -> list[list[float]]:
    """The share of zeros in the kernels, as each replica has them."""
    with strategy.scope():
        layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(8)]
        model = keras.Sequential([keras.Input([16]), *layers])
        tfmp.convert(model, "mixed_float8", "all")
        optimizer = tfmp.optimizers.LossScaleOptimizer("adam")
        model.compile(optimizer, "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=[64, 16]).astype("float32")
    pruning = tfmp.callbacks.Pruning(0.75, begin=1, end=5, every=2)
    model.fit(x, x[:, :8], 16, 2, verbose=0, callbacks=[pruning])
    kernels = [layer.kernel.value for layer in model.layers]
    local = [strategy.experimental_local_results(k) for k in kernels]
    return [
        [float(tf.reduce_mean(tf.cast(k == 0, tf.float32))) for k in replica]
        for replica in zip(*local, strict=True)
    ]
