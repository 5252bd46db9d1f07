"""How the loss scale answers to good and to bad steps: pure functions."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tfmp import checks


class ScaleState(NamedTuple):
    """The loss scale and what decides when it changes: three scalars.

    Attributes:
        scale: float32, as it is stored.
        finite_steps: finite steps in a row, since the scale last grew.
        overflows: bad steps since the scale last grew, or could have.
    """

    scale: tf.Tensor
    finite_steps: tf.Tensor
    overflows: tf.Tensor


@dataclasses.dataclass(frozen=True)
class ScaleRule:
    """When a loss scale grows and when it backs off.

    Invariant: the scale in use is finite and within the bounds, whatever a
    checkpoint has put into the variable.

    Args: see `tfmp.optimizers.LossScaleOptimizer`.
    """

    initial_scale: float
    growth_steps: int
    growth_factor: float
    backoff_factor: float
    min_scale: float
    max_scale: float
    hysteresis: int
    dynamic: bool

    def __post_init__(self) -> None:
        checks.integer("growth_steps", self.growth_steps, 1, 2**31 - 1)
        checks.integer("hysteresis", self.hysteresis, 1, 2**31 - 1)
        checks.boolean("dynamic", self.dynamic)
        low = self._number("min_scale", 2.0**-24, 2.0**40)
        high = self._number("max_scale", low, 2.0**40)
        self._number("initial_scale", low, high)
        self._number("growth_factor", 1 + 2.0**-10, 2.0**16)
        self._number("backoff_factor", 2.0**-16, 1 - 2.0**-10)

    def _number(self, name: str, low: float, high: float) -> float:
        value = checks.number(name, getattr(self, name), low, high)
        object.__setattr__(self, name, value)
        return value

    def in_use(self, stored: Any) -> tf.Tensor:
        """Returns the scale that a stored one stands for, float32 scalar."""
        if not self.dynamic:
            return tf.constant(self.initial_scale)
        stored = tf.convert_to_tensor(stored)
        known = tf.where(
            tf.math.is_nan(stored), tf.constant(self.initial_scale), stored
        )
        return tf.clip_by_value(known, self.min_scale, self.max_scale)

    def after_finite_step(self, state: ScaleState) -> ScaleState:
        """Counts the step; grows, and forgives overflows, if it is time."""
        finite_steps = state.finite_steps + 1
        grow = finite_steps >= self.growth_steps
        scale = self.in_use(state.scale)
        larger = tf.minimum(scale * self.growth_factor, self.max_scale)
        return ScaleState(
            tf.where(grow, larger, scale) if self.dynamic else state.scale,
            tf.where(grow, tf.zeros_like(finite_steps), finite_steps),
            tf.where(grow, tf.zeros_like(state.overflows), state.overflows),
        )

    def after_overflow(self, state: ScaleState) -> ScaleState:
        """Backs off, unless hysteresis has room for one overflow more."""
        overflows = state.overflows + 1
        scale = self.in_use(state.scale)
        smaller = tf.maximum(scale * self.backoff_factor, self.min_scale)
        lower = tf.where(overflows >= self.hysteresis, smaller, scale)
        return ScaleState(
            lower if self.dynamic else state.scale,
            tf.zeros_like(state.finite_steps),
            overflows,
        )
