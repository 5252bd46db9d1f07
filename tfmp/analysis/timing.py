"""How long a layer takes here: forwards and backwards, compiled by XLA."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import policies
from tfmp.analysis.candidates import Candidate
from tfmp.analysis.lowering import under
from tfmp.analysis.running import unchanged, weights
from tfmp.analysis.subjects import Subject

RUNS = 5  # timed; the fastest counts, as others only slow a run down


class Stopwatch:
    """Times layers in a precision; layers that are alike are timed once.

    Args:
        device: such as `"CPU:0"`; None leaves it to TensorFlow.
    """

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._known: dict[Any, float] = {}

    def __call__(self, subject: Subject, candidate: Candidate) -> float:
        """Returns the seconds of a layer in a training step.

        Raises:
            ValueError: if the candidate is emulated.
        """
        if policies.emulates(candidate.policy):
            raise ValueError(
                "`target` must be a device of the cost model for an emulated "
                f"format, which has no time here. Received: {candidate.name}"
            )
        config = subject.layer.get_config()
        config = {k: v for k, v in config.items() if k not in ("name", "dtype")}
        key = repr((config, subject.shapes, candidate.name))
        if key not in self._known:
            self._known[key] = self._time(subject, candidate)
        return subject.calls * self._known[key]

    def _time(self, subject: Subject, candidate: Candidate) -> float:
        device = (
            tf.device(self._device)
            if self._device
            else contextlib.nullcontext()
        )
        with (
            device,
            unchanged(subject.layer),
            under(subject.members, candidate.measured_policy),
        ):
            random = np.random.default_rng(0)
            inputs = [
                tf.constant(random.standard_normal(shape), candidate.dtype)
                for shape in subject.shapes
            ]
            step = _step(subject.layer)
            step(inputs)  # traces and compiles
            return min(_seconds(step, inputs) for _ in range(RUNS))


def _step(layer: keras.Layer) -> Any:
    variables = weights(layer)

    def step(inputs: list[tf.Tensor]) -> Any:
        """Returns the gradients of the layer's inputs and weights."""
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(*inputs)
        return tape.gradient(outputs, [*inputs, *variables])

    return tf.function(step, jit_compile=True, autograph=False)


def _seconds(step: Any, inputs: list[tf.Tensor]) -> float:
    start = time.perf_counter()
    for result in step(inputs):
        if result is not None:
            tf.reduce_sum(tf.cast(result, tf.float32)).numpy()
            break
    return time.perf_counter() - start
