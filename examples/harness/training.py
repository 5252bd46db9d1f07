"""Trains one model in one policy from one seed."""

from __future__ import annotations

import collections
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfmp
from examples.harness.example import Data, Example, Metric
from examples.harness.memory import Peak
from examples.harness.settings import Settings


class StepTimes(keras.callbacks.Callback):
    """Keeps the seconds of each step; reading the loss waits for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])
        self.seconds.append(time.perf_counter() - self.start)

    def median_ms(self, warm_up: int) -> float:
        """The median, without the first steps if there are others."""
        return float(1000 * np.median(self.seconds[warm_up:] or self.seconds))


class Measured(keras.callbacks.Callback):
    """Puts what `Metric.measure` says into the logs, as a Keras metric would.

    Each epoch's dictionary goes to these callbacks before Keras' own.
    """

    name = "val_measured"

    def __init__(self, metric: Metric, data: Data) -> None:
        super().__init__()
        self.metric, self.data = metric, data

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs[self.name] = self.metric.measure(self.model, self.data)


def in_precision(
    policy: str, model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> keras.optimizers.Optimizer:
    """Converts the model in place; returns the optimizer that goes with it.

    float16 needs a loss scale.  FP8 needs none: the wrapper keeps its scales.
    """
    if policy == "float32":
        return optimizer
    tfmp.convert(model, policy, filter="all")
    if policy == "mixed_float16":
        return tfmp.optimizers.LossScaleOptimizer(optimizer)
    return tfmp.optimizers.LossScaleOptimizer(
        optimizer, initial_scale=1.0, dynamic=False
    )


def compiled(
    example: Example, policy: str, data: Data, steps: int, jit_compile: bool
) -> keras.Model:
    """Builds the model in float32, converts it and compiles it."""
    model = example.model(data)
    optimizer = in_precision(policy, model, example.optimizer(steps))
    model.compile(
        optimizer,
        example.loss(),
        metrics=[example.metric.make()] if example.metric.make else None,
        jit_compile=jit_compile,
    )
    return model


def train(
    example: Example, policy: str, seed: int, data: Data, settings: Settings
) -> dict[str, Any]:
    """Trains one model; returns what it has shown.

    A seed gives every policy the same initial weights and the same batches.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    epochs = settings.epochs or example.epochs
    batch_size = settings.batch_size or example.batch_size
    batches = data.batches(batch_size, seed).repeat(example.passes)
    peak, times = Peak(), StepTimes()
    steps = epochs * len(batches)
    model = compiled(example, policy, data, steps, settings.jit_compile)
    measured = example.metric.measure is not None
    history = model.fit(
        batches,
        epochs=epochs,
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=[times, *([Measured(example.metric, data)] * measured)],
        shuffle=False,  # they are shuffled already
        validation_data=None
        if measured
        else data.validation_batches(batch_size),
    ).history
    name = Measured.name if measured else validation_name(model)
    curve = [example.metric.factor * x for x in history[name]]
    # The first step compiles; the first epoch warms up if there are others.
    warm_up = len(batches) if epochs > 1 else 1
    run = {
        "policy": policy,
        "seed": seed,
        "metric": curve[-1],
        "curve": curve,
        "loss": history["loss"],
        "step_ms": times.median_ms(warm_up),
        "peak_mib": peak.mebibytes(),
        "skipped_steps": int(getattr(model.optimizer, "skipped_steps", 0)),
        "afterwards": (example.afterwards or _nothing)(model, data),
    }
    if seed == 0:  # The program is the same for every seed.
        run["products"] = products(model, batches)
    return run


def validation_name(model: keras.Model) -> str:
    """What Keras calls the compiled metric in a history."""
    return f"val_{model.metrics[-1].metrics[0].name}"


def _nothing(model: keras.Model, data: Data) -> dict[str, Any]:
    return {}


def products(model: keras.Model, batches: tf.data.Dataset) -> dict[str, Any]:
    """Says what the program of a training step multiplies in which types."""
    found = tfmp.inspect(model, *next(iter(batches)))
    types = (" x ".join(row.operands) for row in found.products)
    return {
        "float8": found.float8_products,
        "all": len(found.products),
        "float8_share": found.float8_share,
        "fallbacks": len(found.fallbacks),
        "by_types": dict(collections.Counter(types)),
    }
