"""What an example declares: its model, its data and its metric."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from examples.harness.settings import Size

AUTO = tf.data.AUTOTUNE


class Data(NamedTuple):
    """Arrays, or structures of arrays: inputs and labels of each split."""

    train: tuple[Any, Any]
    validation: tuple[Any, Any]

    def batches(self, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches to train on, in an order that only the seed decides.

        Raises:
            ValueError: if there is not a batch of samples.
        """
        count = len(keras.tree.flatten(self.train)[0])
        if batch_size > count:
            raise ValueError(
                f"`batch_size` must be at most {count}. Received: {batch_size}"
            )
        samples = tf.data.Dataset.from_tensor_slices(self.train)
        samples = samples.shuffle(count, seed, reshuffle_each_iteration=True)
        return samples.batch(batch_size, drop_remainder=True).prefetch(AUTO)

    def validation_batches(self, batch_size: int) -> tf.data.Dataset:
        """Batches of all the validation data."""
        samples = tf.data.Dataset.from_tensor_slices(self.validation)
        return samples.batch(batch_size).prefetch(AUTO)


class Metric(NamedTuple):
    """What an example is judged by, on its validation data.

    Attributes:
        name: in words.
        make: makes the Keras metric; None if there is `measure`.
        factor: from Keras' value to the one that is shown.
        unit: of that.
        digits: behind the point.
        higher_is_better: or else lower.
        measure: measures the model after each epoch, where no Keras metric
            can: what has to be decoded, or ranked among all samples; then
            `make` is None.
    """

    name: str
    make: Callable[[], keras.metrics.Metric] | None = None
    factor: float = 1.0
    unit: str = ""
    digits: int = 2
    higher_is_better: bool = True
    measure: Callable[[keras.Model, Data], float] | None = None


class Run(NamedTuple):
    """One training, as an own loop is told of it.

    Attributes:
        seed: of all that is random.
        epochs: passes over the data, or what the loop takes for one.
        batch_size: samples a step.
        size: how much data.
        jit_compile: whether to compile the steps with XLA.
        optimizer: makes the example's optimizer, given the number of steps,
            with the loss scale that the precision needs.
    """

    seed: int
    epochs: int
    batch_size: int
    size: Size
    jit_compile: bool
    optimizer: Callable[[int], keras.optimizers.Optimizer]


class Learned(NamedTuple):
    """What a training has shown.

    Attributes:
        curve: the metric after each epoch, as Keras has it.
        loss: the mean loss of each epoch.
        step_ms: median time of a step, without those that warm up.
        skipped_steps: how many steps were skipped.
    """

    curve: list[float]
    loss: list[float]
    step_ms: float
    skipped_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A training.

    Attributes:
        name: what `python -m examples` calls it.
        field: such as "vision".
        says: what is trained on what, in a line.
        data: reads the data, given its size and the folder of downloads.
        model: builds a plain Keras model, in float32, for these data.
        optimizer: makes the optimizer, given the number of steps.
        loss: makes the loss; None if a loop has its own.
        loop: trains the converted model in place of `model.fit`.
        metric: what counts.
        epochs: how often the metric is taken.
        batch_size: samples a step.
        afterwards: what else to measure of a trained model, by name; numbers,
            None where there is none, or text to read.
        train: an own way to train, for more than one stage; it takes and
            returns what `training.train` does, of which it is made.
        passes: over the data, in an epoch.
    """

    name: str
    field: str
    says: str
    data: Callable[[Size, pathlib.Path], Data]
    model: Callable[[Data], keras.Model]
    optimizer: Callable[[int], keras.optimizers.Optimizer]
    loss: Callable[[], keras.losses.Loss] | None = None
    loop: Callable[[keras.Model, Data, Run], Learned] | None = None
    metric: Metric
    epochs: int
    batch_size: int
    afterwards: Callable[[keras.Model, Data], dict[str, Any]] | None = None
    train: Callable[..., dict[str, Any]] | None = None
    passes: int = 1


def cosine(
    rate: float, steps: int, warm_up: float = 0.05
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A rate that rises for a share of the steps, then falls to zero."""
    rising = int(warm_up * steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=rate, warmup_steps=rising
    )


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels as Keras' losses with label smoothing take them."""
    return np.eye(classes, dtype="float32")[labels]
