"""The loss scale and its counters, as variables of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tfmp._core import stablehlo
from tfmp._keras import first_use, weights_saving
from tfmp.optimizers.early_variables import lifted
from tfmp.optimizers.scale_rule import COUNTERS, STATISTICS, ScaleRule, counts
from tfmp.optimizers.skipped_steps import SkippedSteps


class MovingScale(keras.mixed_precision.LossScaleOptimizer):
    """What an optimizer needs to scale a loss by a rule.

    The variables are there as soon as anything asks for the scale: no step,
    built or traced in whatever order, has another one.

    Args:
        inner_optimizer: a Keras optimizer.
        rule: when the scale changes.
        name: of the optimizer.
    """

    dynamic_scale: Any = None

    def __init__(
        self, inner_optimizer: Any, rule: ScaleRule, name: str | None
    ) -> None:
        super().__init__(
            inner_optimizer,
            initial_scale=rule.initial_scale,
            dynamic_growth_steps=rule.growth_steps,
            name=name,
        )
        first_use.used()
        self.rule = rule
        self.skips = SkippedSteps(self.name, rule)

    def make_scale(self) -> None:
        """Creates the loss scale and the counters, if they are not there."""
        if self.dynamic_scale is not None:
            return
        with lifted():
            for counter in COUNTERS:
                setattr(self, counter, self.add_state(counter, (), "int64"))
            self.dynamic_scale = self.add_state(
                "dynamic_scale", (), start=self.initial_scale
            )

    @property
    def statistics(self) -> dict[str, float]:
        """The loss scale and the counters, as numbers; read off the device."""
        if self.dynamic_scale is None:
            none = dict.fromkeys(STATISTICS, 0)
            return {"loss_scale": self.initial_scale, **none}
        self.skips.look(self)
        read = tf.convert_to_tensor  # also what is mirrored
        counts = {name: int(read(getattr(self, name))) for name in STATISTICS}
        scale = float(self.rule.in_use(self.dynamic_scale))
        return {"loss_scale": scale, **counts}

    def add_state(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str = "float32",
        start: float = 0.0,
    ) -> keras.Variable:
        """Creates a variable of the optimizer's own."""
        return self.add_variable(
            shape=shape,
            dtype=dtype,
            initializer=keras.initializers.Constant(start),
            aggregation="only_first_replica",
            name=name,
        )

    def count(self, good: tf.Tensor, overflowed: tf.Tensor) -> Any:
        """Takes a step into the loss scale and the counters.

        Returns:
            The factor by which the loss scale changes.
        """
        now = {n: tf.convert_to_tensor(getattr(self, n)) for n in COUNTERS}
        stored = tf.convert_to_tensor(self.dynamic_scale)
        grows = self.rule.grows(good, now["step_counter"])
        overflows = now["overflows_since_growth"]
        after = self.rule.after(stored, good, grows, overflows)
        counted = counts(good, overflowed, grows)
        # As vectors: each scalar would have a kernel of its own.
        values = stablehlo.fence(tf.stack([now[name] for name in counted]))
        added, kept = map(tf.stack, zip(*counted.values(), strict=True))
        values = tf.unstack((values + added) * kept)
        for name, value in zip(counted, values, strict=True):
            getattr(self, name).assign(value)
        self.dynamic_scale.assign(after)
        return after / self.rule.in_use(stored) if self.rule.dynamic else 1.0

    def scale_loss(self, loss: Any) -> Any:
        """Multiplies the loss by the scale; a static one is a constant."""
        self.make_scale()
        return keras.ops.multiply(loss, self.rule.in_use(self.dynamic_scale))

    def save_own_variables(self, store: Any) -> None:
        """Saves the variables; a loop of one's own may look nowhere else.

        Where warnings are errors, one is logged: it must not cut a file short.
        """
        super().save_own_variables(store)
        weights_saving.save_once(store, self)
        try:
            self.skips.look(self)
        except RuntimeWarning as warning:
            logging.warning("%s", warning)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Ends a `fit`: takes averages over, and says if it skipped most."""
        super().finalize_variable_values(var_list)
        self.skips.fit_ends(self)
