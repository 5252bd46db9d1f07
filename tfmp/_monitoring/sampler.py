"""Takes samples of a model: its state, and what a step was measured to do."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._keras.callback_states import Logs
from tfmp._monitoring.measured_step import MeasuredStep, Measurement
from tfmp._monitoring.operators import operators
from tfmp._monitoring.sample_log import Sample
from tfmp._monitoring.state_reader import StateReader
from tfmp._monitoring.step_count import StepCount
from tfmp._monitoring.step_loss import StepLoss
from tfmp._support.advice import Adviser


class Sampler:
    """Reads everything that a sample holds, in one call of the device.

    Invariant: one `tf.function` reads, which is traced once a `fit`, and once
    more when the model has another step, as after a change of precision.

    Args:
        model: that is trained.
        statistics: whether steps are measured.
        elements: see `Probe`.
    """

    def __init__(
        self, model: keras.Model, statistics: bool, elements: int | None
    ) -> None:
        self.model = model
        self._statistics = statistics
        self._elements = elements
        self._adviser = Adviser()
        self._measuring: MeasuredStep | None = None
        self._state: Any = None
        self._function: Any = None
        self._held: Measurement | None = None
        self._loss = StepLoss(model)

    @property
    def traces(self) -> int:
        """How many times the reading was traced in this `fit`."""
        found: int = self._function.experimental_get_tracing_count()
        return found

    def start(self) -> bool:
        """Looks at the model anew, once a `fit`.

        Returns:
            Whether anything in it is quantized to FP8.
        """
        self._state, self._function = StateReader(self.model), None
        return bool(operators(self.model))

    def arm(self) -> None:
        """Has the next execution measured."""
        self._loss.begin()
        if not self._statistics:
            return
        if self._measuring is None or not self._measuring.fits():
            self._measuring = self._new_step()
            self.start()
        self._measuring.arm()

    def _new_step(self) -> MeasuredStep:
        return MeasuredStep(self.model, self._elements)

    def stop(self) -> None:
        """Gives the model its own step back."""
        if self._measuring is not None:
            self._measuring.remove()

    def take(self, count: StepCount, logs: Logs) -> Sample:
        """Returns a sample of this moment, and of what was measured last.

        `start` comes first.

        Args:
            count: says which moment that is.
            logs: what Keras gives to callbacks.
        """
        self._function = self._function or self._reading_function()
        state, *vectors = map(_array, self._function())
        measured = self._measured(*vectors)
        named = self._state.named(state)
        numbers = {**_scalars(logs), **self._loss.end()}
        skipped = named.get("skipped_steps", math.nan)
        loss = numbers.get("loss", 0.0)
        findings = self._adviser.look_at_training(count.step, skipped, loss)
        findings += self._adviser.look(measured.values, measured.in_vain)
        return Sample(
            count.step,
            count.epoch,
            time.time(),
            named,
            measured.values,
            measured.histograms,
            numbers,
            tuple(findings),
        )

    def _measured(self, *vectors: np.ndarray | None) -> Measurement:
        held, self._held = self._held, None
        if self._measuring is not None and self._measuring.has_run:
            return self._measuring.described(*vectors)
        return held or Measurement({}, {})

    def get_state(self) -> dict[str, Any]:
        """Returns what it has said, and what was measured and not taken."""
        if self._measuring is not None and self._measuring.has_run:
            self._function = self._function or self._reading_function()
            _, *vectors = map(_array, self._function())
            self._held = self._measuring.described(*vectors)
        held = None if self._held is None else list(self._held)
        return {"held": held, "adviser": self._adviser.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `get_state` returned."""
        held = state["held"]
        self._held = None if held is None else Measurement(*held)
        self._adviser.set_state(state["adviser"])

    def _reading_function(self) -> Any:
        state, measuring = self._state, self._measuring

        def read() -> tuple[tf.Tensor | None, ...]:
            nothing = None, None
            measured = nothing if measuring is None else measuring.reading()
            return (state.reading(), *measured)

        return tf.function(read, autograph=False)


def _array(tensor: tf.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()


def _scalars(logs: Logs) -> dict[str, float]:
    """Returns the numbers in Keras' logs."""
    values = {k: np.asarray(v) for k, v in (logs or {}).items()}
    return {k: float(v) for k, v in values.items() if v.ndim == 0}
