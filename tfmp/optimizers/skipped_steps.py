"""Says that a training skips its steps, once, in words."""

from __future__ import annotations

import warnings
import weakref
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfmp.optimizers.scale_rule import ScaleRule

IN_A_ROW = 50  # skipped steps
FEWEST = 4  # skipped steps of a `fit` that are worth a word


class Counts(NamedTuple):
    """What an optimizer has counted.

    Attributes:
        in_a_row: skipped steps up to now.
        skipped: steps.
        overflows: how many of these had bad gradients.
        steps: taken, the skipped ones too; less within an accumulation.
    """

    in_a_row: int = 0
    skipped: int = 0
    overflows: int = 0
    steps: int = 0


class SkippedSteps:
    """Warns if a training skips 50 steps in a row, or most steps of a `fit`.

    Eagerly, the optimizer looks where a step is skipped.  Of a model's
    function, an execution every 50 steps is looked at from outside.  A
    `tf.function` of one's own cannot call Python, as XLA may compile it:
    `statistics` look, and what saves the optimizer.

    Invariant: it warns at most once in a `fit`, and once in what is trained
    between two of them.

    Args:
        name: of the optimizer.
        rule: that its loss scale follows.
    """

    def __init__(self, name: str, rule: ScaleRule) -> None:
        self._name, self._rule = name, rule
        self._said = self._ended = False
        self._start: Counts | None = None
        self._fit: Any = lambda: None
        self._unseen = 0

    def step_was_skipped(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Looks at the counters, in the branch of a step that is skipped."""
        if not tf.executing_eagerly():  # a graph may yet be compiled by XLA
            return
        in_a_row = int(tf.convert_to_tensor(optimizer.skipped_in_a_row))
        if in_a_row and in_a_row % IN_A_ROW == 0:
            self._look_at(*_reading(optimizer))

    def look(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Looks at the counters, from outside of a step."""
        if optimizer.built and (self._ended or not self._said):
            self._look_at(*_reading(optimizer))

    def execution_begins(
        self, optimizer: keras.optimizers.Optimizer, fit: Any
    ) -> None:
        """Notes where a training starts.

        Args:
            optimizer: whose counters these are.
            fit: the `History` of the `fit` that runs, or the last one.
        """
        if isinstance(fit, keras.callbacks.History) and fit is not self._fit():
            self._ended, self._fit = True, weakref.ref(fit)
        if self._ended:
            self._begin(None)
        if self._start is None:
            self._start = _counts(optimizer)

    def execution_ends(
        self, optimizer: keras.optimizers.Optimizer, steps: int
    ) -> None:
        """Looks at the counters, if it is time to.

        Args:
            optimizer: whose counters these are.
            steps: of the execution.
        """
        self._unseen += steps
        if self._unseen >= IN_A_ROW:
            self._unseen = 0
            self.look(optimizer)

    def fit_ends(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Warns if most steps of the `fit` were skipped."""
        now, before = _counts(optimizer), self._start or Counts()
        skipped, steps = now.skipped - before.skipped, now.steps - before.steps
        if skipped >= FEWEST and 2 * skipped > steps:
            self._say(now, float(_reading(optimizer)[1]))
        self._start, self._ended = now, True

    def _begin(self, start: Counts | None) -> None:
        self._said = self._ended = False
        self._start = start

    def _look_at(self, counts: tf.Tensor, scale: tf.Tensor) -> None:
        now = Counts(*map(int, counts))
        before = self._start or Counts()
        if self._ended and now.steps > before.steps:  # in a loop, not a `fit`
            self._begin(before)
        possible = now.in_a_row <= now.skipped <= now.steps
        if now.in_a_row >= IN_A_ROW and possible and not self._ended:
            self._say(now, float(scale))

    def _say(self, now: Counts, scale: float) -> None:
        if self._said:
            return
        self._said = True
        said = words(self._start or Counts(), now, scale, self._rule)
        warnings.warn(
            f"LossScaleOptimizer {self._name!r} {said}",
            RuntimeWarning,
            stacklevel=2,
        )


def words(before: Counts, now: Counts, scale: float, rule: ScaleRule) -> str:
    """Says what was skipped, why, and what to do.

    Args:
        before: what was counted when the training began.
        now: what is counted now.
        scale: the loss scale now.
        rule: that it follows.
    """
    if now.in_a_row > now.skipped - before.skipped:
        before = Counts()  # they began before this training
    skipped = max(0, now.skipped - before.skipped)
    overflows = max(0, now.overflows - before.overflows)
    return (
        f"skipped {skipped} of the steps {before.steps + 1} to {now.steps}"
        f"{_in_a_row(now.in_a_row)}: such a step changes no weight. "
        f"{_causes(skipped, overflows)} {_of_scale(scale, rule)} "
        "tfmp.debug.find_nonfinite(model, x, y) says what is wrong with a "
        "batch, and tfmp.callbacks.TerminateOnOverflow ends a training that "
        "only skips. Values that grow step by step want a lower learning "
        "rate, whatever the precision; beyond that, bfloat16 has the range of "
        "float32, which float16 has not."
    )


def _in_a_row(steps: int) -> str:
    return f", the last {steps} in a row" if steps > 1 else ""


def _causes(skipped: int, overflows: int) -> str:
    """Says what the skipped steps had."""
    bad = "gradients that are not finite, or too large"
    if overflows >= skipped:
        return f"All had {bad}."
    saturated = "an activation too large for FP8"
    if not overflows:
        return f"All had {saturated}."
    return f"{overflows} had {bad}; {skipped - overflows} had {saturated}."


def _of_scale(scale: float, rule: ScaleRule) -> str:
    """Says whether the loss scale can be the cause, and what helps then."""
    if not rule.dynamic:
        said = f"The loss scale is fixed at {scale:g}"
        if scale <= 1.0:
            return f"{said}: the cause is another."
        return f"{said}: lower initial_scale, or let it be dynamic."
    if scale > rule.bounds[0]:
        return (
            f"The loss scale is {scale:g} and can fall to "
            f"{rule.bounds[0]:g}; a lower initial_scale gets there sooner."
        )
    said = f"The loss scale is {scale:g}, its minimum"
    if scale <= 1.0:
        return f"{said}: the cause is another."
    return f"{said}: lower bounds[0], or look for another cause."


def _reading(optimizer: keras.optimizers.Optimizer) -> list[tf.Tensor]:
    """Returns the fields of `Counts` as a vector, and the loss scale."""
    inner = optimizer.inner_optimizer
    accumulated = inner.gradient_accumulation_steps or 1
    in_a_row, skipped, overflows, updates = (
        tf.cast(tf.convert_to_tensor(counter), tf.int64)
        for counter in (
            optimizer.skipped_in_a_row,
            optimizer.skipped_steps,
            optimizer.overflow_count,
            inner.iterations,
        )
    )
    steps = updates * accumulated + skipped
    scale = tf.convert_to_tensor(optimizer.dynamic_scale)
    return [
        tf.stack([in_a_row, skipped, overflows, steps]),
        optimizer.rule.in_use(scale),
    ]


def _counts(optimizer: keras.optimizers.Optimizer) -> Counts:
    if not optimizer.built:
        return Counts()
    return Counts(*map(int, _reading(optimizer)[0]))
