"""A `LossScaleOptimizer` with bounds, static mode and FP8 delayed scaling."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp import checks, internals
from tfmp.layers.state import is_amax
from tfmp.optimizers.amax_history import AmaxHistory
from tfmp.optimizers.arguments import checked_inner, checked_variables


@keras.saving.register_keras_serializable("tfmp")
class LossScaleOptimizer(keras.mixed_precision.LossScaleOptimizer):
    """Scales the loss, keeps the FP8 state, and hands the rest inside.

    Dynamic loss scaling (Micikevicius et al., arXiv 1710.03740, section 3.2):

        every finite gradient:  update; after `growth_steps` such steps
                                scale = min(scale * growth_factor, max_scale)
        otherwise:              skip;
                                scale = max(scale * backoff_factor, min_scale)

    FP8 delayed scaling (arXiv 2209.05433, section 5), for every tfmp layer
    with a recipe, all at once: the amax observed in the step goes into the
    layer's window, and the window's maximum is what the next step assumes.
    A step with a non-finite gradient or observation changes nothing but the
    loss scale and the counters.  The inner optimizer never sees FP8 state.

    Args:
        inner_optimizer: a Keras optimizer, or its name.  Clipping, weight
            decay, EMA and gradient accumulation are set there.
        initial_scale: the first loss scale, between the bounds.
        growth_steps: finite steps in a row before the scale grows.
        growth_factor: more than 1, at most 2**16.
        backoff_factor: from 2**-16 to less than 1.
        min_scale: the scale never falls below; at least 2**-24.
        max_scale: the scale never grows beyond; at most 2**40.
        dynamic: if False, the scale stays at `initial_scale`.  bfloat16 and
            `mixed_float8` need no more than `initial_scale=1, dynamic=False`.
        name: of the optimizer.

    Attributes:
        dynamic_scale: the loss scale, float32 scalar variable.
        skipped_steps: how many steps were skipped, int64 scalar variable.
        amax_history: float32 variable of shape `[steps, layers, 3]`, newest
            first.  All are there once built.

    Build it before the first step of an eager custom loop, so that step 0
    knows the loss scale: `optimizer.build(model.trainable_variables)`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of its range, or the inner optimizer
            scales the loss itself.

    >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    >>> model.compile(LossScaleOptimizer("adam", initial_scale=2.0), "mse")
    >>> history = model.fit(tf.ones([8, 4]), tf.ones([8, 1]), verbose=0)
    >>> float(model.optimizer.dynamic_scale)
    2.0
    """

    _amax: Any = None

    def __init__(
        self,
        inner_optimizer: Any,
        initial_scale: float = 2.0**15,
        growth_steps: int = 2000,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        min_scale: float = 1.0,
        max_scale: float = 2.0**24,
        dynamic: bool = True,
        name: str | None = None,
    ) -> None:
        inner_optimizer = checked_inner(inner_optimizer)
        checks.integer("growth_steps", growth_steps, 1)
        checks.number("min_scale", min_scale, 2.0**-24, 2.0**40)
        checks.number("max_scale", max_scale, min_scale, 2.0**40)
        checks.number("initial_scale", initial_scale, min_scale, max_scale)
        above = math.nextafter(1.0, 2.0)
        checks.number("growth_factor", growth_factor, above, 2.0**16)
        below = math.nextafter(1.0, 0.0)
        checks.number("backoff_factor", backoff_factor, 2.0**-16, below)
        checks.boolean("dynamic", dynamic)
        super().__init__(
            inner_optimizer,
            initial_scale=float(initial_scale),
            dynamic_growth_steps=growth_steps,
            name=name,
        )
        self.growth_steps = growth_steps
        self.growth_factor = float(growth_factor)
        self.backoff_factor = float(backoff_factor)
        self.min_scale = float(min_scale)
        self.max_scale = float(max_scale)
        self.dynamic = dynamic
        self.amax_history: Any = None

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Creates the optimizer's variables for a model's trainable ones."""
        self._amax = amax = AmaxHistory(var_list)
        self.skipped_steps = self._add_state("skipped_steps", (), "int64")
        self.amax_history = self._add_state("amax_history", amax.shape)
        amax.history = self.amax_history
        amax.start(self.initial_scale)
        super().build([v for v in amax.trainable if not is_amax(v)])

    def rebuild(self, var_list: Sequence[keras.Variable]) -> None:
        """Follows a model that was converted since the optimizer was built.

        Only FP8 state may differ; what was observed of a layer is kept, as is
        all state of the inner optimizer.  `tfmp.convert` calls it for the
        optimizer that a model is compiled with; a custom loop calls it.

        Args:
            var_list: the model's trainable variables.
        """
        if self._amax is None:
            self.build(var_list)
            return
        old, self._amax = self._amax, AmaxHistory(var_list)
        self.amax_history = self._add_state("amax_history", self._amax.shape)
        internals.replace_variable(self, old.history, self.amax_history)
        self._amax.history = self.amax_history
        self._amax.follow(old, float(self.dynamic_scale))

    def load_own_variables(self, store: Any) -> None:
        """Loads all variables; a window of another length is cut or filled."""
        if self._amax is not None:
            ours = [v is self.amax_history for v in self.variables].index(True)
            fitted = self._amax.fit(store[str(ours)])
            store = {**store, str(ours): fitted}
        super().load_own_variables(store)

    def _add_state(
        self, name: str, shape: tuple[int, ...], dtype: str = "float32"
    ) -> keras.Variable:
        return self.add_variable(
            shape=shape,
            dtype=dtype,
            initializer="zeros",
            aggregation="only_first_replica",
            name=name,
        )

    def apply(
        self, grads: Sequence[Any], trainable_variables: Any = None
    ) -> None:
        """Takes out the FP8 observations and applies the gradients.

        Args:
            grads: of the scaled loss, one a variable; None where there is
                none.
            trainable_variables: the variables; by default those that the
                optimizer was built with.

        Raises:
            ValueError: if there is not one gradient for each variable, or
                the optimizer was not built with one of the variables.
        """
        if self._amax is None:
            self.build(checked_variables(trainable_variables))
        variables = trainable_variables or self._amax.trainable
        if len(grads) != len(variables):
            raise ValueError(
                "`grads` must have one entry for each variable. Received: "
                f"{len(grads)} for {len(variables)} variables"
            )
        pairs = list(zip(grads, variables, strict=True))
        observed = self._amax.observed([p for p in pairs if is_amax(p[1])])
        rest = [p for p in pairs if not is_amax(p[1])]
        gradients = [gradient for gradient, _ in rest]
        verdict = self._verdict(gradients, tf.reshape(observed, [-1]))
        self._tf_apply([*gradients, verdict], [v for _, v in rest])

    def _verdict(self, gradients: list[Any], observed: tf.Tensor) -> tf.Tensor:
        """Returns the observations, not finite if the step must be skipped.

        Replicas see different data: each takes the maximum of all, and one
        entry more that is infinite if any replica has a non-finite gradient.
        """
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return observed
        fault = tf.where(self.check_finite(gradients), 0.0, math.inf)
        mine = tf.concat([observed, fault[tf.newaxis]], axis=0)
        every = context.all_gather(mine[tf.newaxis], axis=0)
        return tf.reduce_max(every, axis=0)

    def _stateful_handle_finite_grads(
        self, grads: Sequence[Any], trainable_variables: Any
    ) -> None:
        *grads, verdict = grads
        scale = tf.convert_to_tensor(self.dynamic_scale)
        if not self.dynamic:
            scale = tf.constant(self.initial_scale)
        if self.dynamic or self.initial_scale != 1.0:
            grads = [
                g
                if g is None or self._overwrite_variable_with_gradient(v)
                else keras.ops.divide(g, scale)
                for g, v in zip(grads, trainable_variables, strict=True)
            ]
        self.inner_optimizer.apply(grads, trainable_variables)
        counter = tf.convert_to_tensor(self.step_counter) + 1
        grow = counter >= self.growth_steps
        larger = tf.minimum(scale * self.growth_factor, self.max_scale)
        factor = self._change_scale(scale, tf.where(grow, larger, scale))
        self.step_counter.assign(
            tf.where(grow, tf.zeros_like(counter), counter)
        )
        if self._amax.variables:
            _, *row = self._amax.shape
            observed = tf.reshape(verdict[: math.prod(row)], row)
            self._amax.push(observed, factor)

    def _stateful_handle_non_finite_grads(self) -> None:
        scale = tf.convert_to_tensor(self.dynamic_scale)
        smaller = tf.maximum(scale * self.backoff_factor, self.min_scale)
        factor = self._change_scale(scale, smaller)
        self.step_counter.assign(tf.zeros_like(self.step_counter))
        self.skipped_steps.assign_add(1)
        if self._amax.variables:
            self._amax.rescale(factor)

    def _change_scale(self, scale: tf.Tensor, target: tf.Tensor) -> Any:
        """Returns the factor by which the loss scale changed."""
        if not self.dynamic:
            return 1.0
        self.dynamic_scale.assign(target)
        return target / scale

    def scale_loss(self, loss: Any) -> Any:
        """Multiplies the loss by the scale; a static one is a constant."""
        if self.dynamic:
            return super().scale_loss(loss)
        return keras.ops.multiply(loss, self.initial_scale)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Writes the inner optimizer's averages at the end of training."""
        super().finalize_variable_values(
            [v for v in var_list if not is_amax(v)]
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, the inner optimizer serialised."""
        config = super().get_config()
        del config["dynamic_growth_steps"]
        return {
            **config,
            "growth_steps": self.growth_steps,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "min_scale": self.min_scale,
            "max_scale": self.max_scale,
            "dynamic": self.dynamic,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> LossScaleOptimizer:
        """Rebuilds the optimizer from `get_config()`."""
        config = copy.deepcopy(config)  # Keras writes into it
        return super().from_config(config, custom_objects=custom_objects)
