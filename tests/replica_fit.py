"""Keras' `fit` and its like under a strategy, by a process of `replicas.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from replica_programs import hashes, message

import tfmp

ROWS, WIDTH = 37, 8  # batches of 16, 16 and 5


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=[ROWS, WIDTH]).astype("float32")
    return x, np.tanh(x)


def made(strategy: Any, policy: str = "mixed_float8") -> keras.Model:
    """Returns a compiled model, each time and everywhere the same."""
    keras.backend.clear_session()  # the same names each time
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [
            keras.layers.Dense(16, "relu", name="first"),
            keras.layers.Dropout(0.1, seed=1, name="dropout"),
            keras.layers.Dense(WIDTH, name="last"),
        ]
        model = keras.Sequential([keras.Input([WIDTH]), *layers], name="net")
        tfmp.convert(model, policy, "all")
        optimizer = tfmp.optimizers.LossScaleOptimizer("adam")
        model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
    return model


def fitted(strategy: Any, policy: str, **options: Any) -> dict[str, Any]:
    """Trains two epochs; returns what the model has shown and holds."""
    model, (x, y) = made(strategy, policy), data()
    if policy == "mixed_float16":
        x[20] = np.inf
    history = model.fit(
        x,
        y,
        16,
        2,
        verbose=0,
        shuffle=False,
        validation_data=data(),
        **options,
    ).history
    return {
        "history": history,
        "hashes": hashes(strategy, model.variables),
        "skipped": int(model.optimizer.skipped_steps.numpy()),
        "evaluated": model.evaluate(*data(), verbose=0),
        "predicted": [
            model.predict(x[:n], verbose=0).astype("float32").tolist()
            for n in (ROWS, 1)
        ],
    }


def fits(strategy: Any) -> dict[str, Any]:
    """Trains in two precisions; `fits_with_callbacks` in a third."""
    policies = ("mixed_float8", "mixed_float16")
    return {policy: fitted(strategy, policy) for policy in policies}


def fits_with_callbacks(strategy: Any) -> dict[str, Any]:
    """Trains with those of tfmp that measure, change and back up."""
    callbacks = tfmp.callbacks
    monitor = callbacks.ScaleMonitor(every=2)
    with tempfile.TemporaryDirectory() as folder:
        used = [
            monitor,
            callbacks.PrecisionScheduler({1: "mixed_float8"}),
            callbacks.AdaptivePrecision(every=2),
            callbacks.TerminateOnOverflow(),
            callbacks.BackupAndRestore(f"{folder}/backup", 2, True),
        ]
        found = fitted(strategy, "mixed_bfloat16", callbacks=used)
    samples = [str({**each, "time": 0}) for each in monitor.samples]
    return {**found, "samples": samples}


def batches(strategy: Any) -> dict[str, Any]:
    """Trains on single batches, which every replica has alike."""
    model, (x, y) = made(strategy), data()
    return {
        "trained": [model.train_on_batch(x, y) for _ in range(3)],
        "tested": model.test_on_batch(x, y),
        "hashes": hashes(strategy, model.variables),
    }


def refusals(strategy: Any) -> dict[str, str]:
    """What is said where workers have data or backups that do not fit."""
    model, (x, y) = made(strategy), data()
    context = strategy.cluster_resolver
    more = 16 * context.task_id
    with tempfile.TemporaryDirectory() as folder:
        backup = tfmp.callbacks.BackupAndRestore(folder, 1)
        alone = tfmp.callbacks.BackupAndRestore(
            folder, "epoch", delete_checkpoint=False
        )
        model.fit(x, y, 16, 1, verbose=0, callbacks=[alone])
        if context.task_id:
            backup = tfmp.callbacks.BackupAndRestore(f"{folder}/none", 1)

        def go_on() -> None:
            model.fit(x, y, 16, 2, verbose=0, callbacks=[backup])

        found = {"backup": message(go_on)}
    uneven = tf.data.Dataset.from_tensor_slices((x, y)).take(16 + more).batch(8)
    tries: dict[str, Callable[[], Any]] = {
        "fit": lambda: model.fit(uneven, verbose=0),
        "evaluate": lambda: model.evaluate(uneven, verbose=0),
        "predict": lambda: model.predict(uneven.map(lambda x, _: x), verbose=0),
    }
    return found | {name: message(run) for name, run in tries.items()}
