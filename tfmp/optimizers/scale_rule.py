"""How the loss scale answers to good and to bad steps: pure functions."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from tfmp._support import checks

STATISTICS = (
    "overflow_count",
    "skipped_steps",
    "skipped_in_a_row",
    "steps_since_overflow",
)
COUNTERS = (*STATISTICS, "overflows_since_growth", "step_counter")


def counts(
    good: tf.Tensor, overflowed: tf.Tensor, grows: tf.Tensor
) -> dict[str, tuple[Any, Any]]:
    """Returns what a step does to each counter: `(counter + a) * b`.

    Args:
        good: whether the step was finite, bool scalar.
        overflowed: whether its gradients were not.
        grows: whether the scale grows, or could.
    """
    goes_on, no = tf.cast(good, tf.int64), tf.cast(~good, tf.int64)
    stays, one = tf.cast(~grows, tf.int64), tf.ones([], tf.int64)
    return {
        "overflow_count": (tf.cast(overflowed, tf.int64), one),
        "skipped_steps": (no, one),
        "skipped_in_a_row": (one, no),
        "steps_since_overflow": (one, goes_on),
        "overflows_since_growth": (no, stays),
        "step_counter": (one, goes_on * stays),
    }


@dataclasses.dataclass(frozen=True)
class ScaleRule:
    """When a loss scale grows and when it backs off.

    Invariant: the scale in use is finite and within the bounds, whatever a
    checkpoint has put into the variable.

    Args: see `tfmp.optimizers.LossScaleOptimizer`.
    """

    initial_scale: float
    growth_steps: int
    factors: tuple[float, float]
    bounds: tuple[float, float]
    dynamic: bool
    hysteresis: int

    def __post_init__(self) -> None:
        checks.integer("growth_steps", self.growth_steps, 1, 2**31 - 1)
        checks.integer("hysteresis", self.hysteresis, 1, 2**31 - 1)
        checks.boolean("dynamic", self.dynamic)
        lowest, highest = _pair("bounds", self.bounds)
        low = checks.number("bounds[0]", lowest, 2.0**-24, 2.0**40)
        high = checks.number("bounds[1]", highest, low, 2.0**40)
        growth, backoff = _pair("factors", self.factors)
        growth = checks.number("factors[0]", growth, 1 + 2.0**-10, 2.0**16)
        backoff = checks.number("factors[1]", backoff, 2.0**-16, 1 - 2.0**-10)
        first = checks.number("initial_scale", self.initial_scale, 0, math.inf)
        if not low <= first <= high:
            raise ValueError(
                f"`initial_scale` must be within `bounds`, from {low} to "
                f"{high}. Received: {first}"
            )
        object.__setattr__(self, "bounds", (low, high))
        object.__setattr__(self, "factors", (growth, backoff))
        object.__setattr__(self, "initial_scale", first)

    def in_use(self, stored: Any) -> tf.Tensor:
        """Returns the scale that a stored one stands for, float32 scalar."""
        if not self.dynamic:
            return tf.constant(self.initial_scale)
        stored = tf.convert_to_tensor(stored)
        known = tf.where(
            tf.math.is_nan(stored), tf.constant(self.initial_scale), stored
        )
        return tf.clip_by_value(known, *self.bounds)

    def grows(self, good: tf.Tensor, finite_steps: tf.Tensor) -> tf.Tensor:
        """Whether it is time to grow, and to forgive overflows.

        Args:
            good: whether the step was finite, bool scalar.
            finite_steps: finite steps in a row before it, integer scalar.
        """
        return good & (finite_steps + 1 >= self.growth_steps)

    def after(
        self, stored: Any, good: tf.Tensor, grows: tf.Tensor, overflows: Any
    ) -> tf.Tensor:
        """Returns the scale to store after a step.

        Args:
            stored: before it.
            good: whether the step was finite, bool scalar.
            grows: of `grows`.
            overflows: before it, since the scale last grew or could have.
        """
        if not self.dynamic:
            return stored
        scale = self.in_use(stored)
        (growth, backoff), (low, high) = self.factors, self.bounds
        larger = tf.minimum(scale * growth, high)
        smaller = tf.maximum(scale * backoff, low)
        backs_off = ~good & (overflows + 1 >= self.hysteresis)
        return tf.where(grows, larger, tf.where(backs_off, smaller, scale))


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(
            f"`{name}` must be a pair of numbers. Received: {value!r}"
        )
    first, second = value
    return first, second
