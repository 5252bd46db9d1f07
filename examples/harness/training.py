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
from examples.harness.example import Data, Example, Learned, Metric, Run
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
    """Measures the model after each epoch, where the example says how."""

    def __init__(self, metric: Metric, data: Data) -> None:
        super().__init__()
        self.metric, self.data = metric, data
        self.curve: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.metric.measure:
            self.curve.append(self.metric.measure(self.model, self.data))


def with_loss_scale(
    policy: str, optimizer: keras.optimizers.Optimizer
) -> keras.optimizers.Optimizer:
    """Returns the optimizer that goes with a precision.

    float16 needs a loss scale.  FP8 needs none: the wrapper keeps its scales.
    """
    if policy == "float32":
        return optimizer
    if policy == "mixed_float16":
        return tfmp.optimizers.LossScaleOptimizer(optimizer)
    return tfmp.optimizers.LossScaleOptimizer(
        optimizer, initial_scale=1.0, dynamic=False
    )


def planned(
    example: Example, policy: str, seed: int, settings: Settings
) -> Run:
    """Returns one training, as the settings say, or else the example."""
    return Run(
        seed,
        settings.epochs or example.epochs,
        settings.batch_size or example.batch_size,
        settings.size,
        settings.jit_compile,
        lambda steps: with_loss_scale(policy, example.optimizer(steps)),
    )


def converted(example: Example, policy: str, data: Data) -> keras.Model:
    """Builds the model in float32 and takes it to a precision."""
    model = example.model(data)
    if policy != "float32":
        tfmp.convert(model, policy, filter="all")
    return model


def epoch_of(example: Example, data: Data, chosen: Run) -> tf.data.Dataset:
    """Returns the batches of an epoch, in which data may come several times."""
    batches = data.batches(chosen.batch_size, chosen.seed)
    return batches.repeat(example.passes)


def compile_for_fit(
    example: Example, model: keras.Model, chosen: Run, steps: int
) -> None:
    """Compiles a converted model that trains for so many steps."""
    metric = example.metric
    model.compile(
        chosen.optimizer(steps),
        example.loss(),
        metrics=[metric.make()] if metric.make else None,
        jit_compile=chosen.jit_compile,
    )


def fit(
    example: Example, model: keras.Model, data: Data, chosen: Run
) -> Learned:
    """Trains a converted model by `model.fit`."""
    batches = epoch_of(example, data, chosen)
    compile_for_fit(example, model, chosen, chosen.epochs * len(batches))
    metric = example.metric
    times, measured = StepTimes(), Measured(metric, data)
    validation = data.validation_batches(chosen.batch_size)
    history = model.fit(
        batches,
        epochs=chosen.epochs,
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=[times, measured],
        shuffle=False,  # they are shuffled already
        validation_data=None if metric.measure else validation,
    ).history
    curve = measured.curve
    if metric.make:
        curve = history[f"val_{model.metrics[-1].metrics[0].name}"]
    # The first step compiles; the first epoch warms up if there are others.
    warm_up = len(batches) if chosen.epochs > 1 else 1
    return Learned(
        curve,
        history["loss"],
        times.median_ms(warm_up),
        int(getattr(model.optimizer, "skipped_steps", 0)),
    )


def train(
    example: Example, policy: str, seed: int, data: Data, settings: Settings
) -> dict[str, Any]:
    """Trains one model; returns what it has shown.

    A seed gives every policy the same initial weights and the same batches.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    chosen = planned(example, policy, seed, settings)
    peak = Peak()
    model = converted(example, policy, data)
    if example.loop:
        learned = example.loop(model, data, chosen)
    else:
        learned = fit(example, model, data, chosen)
    curve = [example.metric.factor * x for x in learned.curve]
    run = {
        "policy": policy,
        "seed": seed,
        "metric": curve[-1],
        "curve": curve,
        "loss": learned.loss,
        "step_ms": learned.step_ms,
        "peak_mib": peak.mebibytes(),
        "skipped_steps": learned.skipped_steps,
        "afterwards": (example.afterwards or _nothing)(model, data),
    }
    if seed == 0:  # The program is the same for every seed.
        batches = data.batches(chosen.batch_size, seed)
        run["products"] = products(model, batches)
    return run


def _nothing(model: keras.Model, data: Data) -> dict[str, Any]:
    return {}


def products(model: keras.Model, batches: tf.data.Dataset) -> dict[str, Any]:
    """Says what the program of a training step multiplies in which types."""
    x, y = next(iter(batches))
    # Without a compiled loss it is the sum of squares of the outputs.
    found = tfmp.inspect(model, x, *([y] if model.compiled else []))
    types = (" x ".join(row.operands) for row in found.products)
    return {
        "float8": found.float8_products,
        "all": len(found.products),
        "float8_share": found.float8_share,
        "fallbacks": len(found.fallbacks),
        "by_types": dict(collections.Counter(types)),
    }
