"""A `LossScaleOptimizer` with bounds, static mode and FP8 delayed scaling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp import internals, replicas, undoing
from tfmp.layers.state import is_amax
from tfmp.optimizers import arguments, lost_updates, saved_state
from tfmp.optimizers.amax_history import AmaxHistory
from tfmp.optimizers.as_keras import AsKeras
from tfmp.optimizers.gradients import fault, unscaled
from tfmp.optimizers.lifting import lifted
from tfmp.optimizers.scale_rule import ScaleRule, ScaleState

STATISTICS = (
    "overflow_count",
    "skipped_steps",
    "skipped_in_a_row",
    "steps_since_overflow",
)
COUNTERS = (*STATISTICS, "overflows_since_growth")


@keras.saving.register_keras_serializable("tfmp")
class LossScaleOptimizer(AsKeras):
    """Scales the loss, keeps the FP8 state, and hands the rest inside.

    Dynamic loss scaling (Micikevicius et al., arXiv 1710.03740, section 3.2):

        gradients finite:       update; after `growth_steps` such steps
                                scale = min(scale * growth_factor, max_scale)
        otherwise:              skip; from the `hysteresis`-th time on
                                scale = max(scale * backoff_factor, min_scale)

    FP8 delayed scaling (Transformer Engine's user guide), for every tfmp layer
    with a recipe, all at once: the amax observed in the step goes into the
    layer's window, and the window's maximum is what the next step assumes.
    A step with a bad gradient or observation changes nothing but the loss
    scale and the counters.  Gradients are bad if their norm, or Adam's squares
    of them, may not be finite.  The inner optimizer sees no FP8 state.

    Micro-batches of its gradient accumulation share one entry of the window,
    their maximum; one that is skipped is replaced by the next.

    Args:
        inner_optimizer: a Keras optimizer, or its name.  Clipping, weight
            decay, EMA and gradient accumulation are set there.
        initial_scale: the first loss scale, between the bounds.
        growth_steps: finite steps in a row before the scale grows.
        growth_factor: from 1 + 2**-10 to 2**16.
        backoff_factor: from 2**-16 to 1 - 2**-10.
        min_scale: the scale never falls below; at least 2**-24.
        max_scale: the scale never grows beyond; at most 2**40.
        dynamic: if False, the scale stays at `initial_scale`.  bfloat16 and
            `mixed_float8` need no more than `initial_scale=1, dynamic=False`.
        hysteresis: the scale backs off at this many overflows since it last
            grew, or could have, and at every further one; 1 or more.  One bad
            batch then costs no range.  DeepSpeed's default is 2.
        name: of the optimizer.
        **kwargs: `dynamic_growth_steps`, Keras' name of `growth_steps`; and
            what Keras' old files have, if it is the default there.

    Attributes:
        dynamic_scale: the loss scale, float32 scalar variable.
        skipped_steps: how many steps were skipped, int64 scalar variable.
        overflow_count: how many of them had gradients too large or not finite;
            the others had an activation that FP8 saturated.
        skipped_in_a_row: how many up to now.
        steps_since_overflow: steps since the last skipped one.
        amax_history: float32 variable of shape `[steps, layers, 3]`, newest
            first.  All are there once built; `statistics` reads them.

    Build it before the first step of an eager custom loop, so that step 0
    knows the loss scale: `optimizer.build(model.trainable_variables)`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of its range, the inner optimizer
            scales the loss itself, or an argument is none of these.

    >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    >>> model.compile(LossScaleOptimizer("adam", initial_scale=2.0), "mse")
    >>> history = model.fit(tf.ones([8, 4]), tf.ones([8, 1]), verbose=0)
    >>> model.optimizer.statistics["loss_scale"]
    2.0
    """

    _amax: Any = None
    update_probes: Any = ()  # monitors', while a measured step is traced

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
        hysteresis: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        inner_optimizer = arguments.checked_inner(inner_optimizer)
        growth_steps = arguments.of_keras(kwargs, growth_steps)
        rule = ScaleRule(
            initial_scale,
            growth_steps,
            growth_factor,
            backoff_factor,
            min_scale,
            max_scale,
            hysteresis,
            dynamic,
        )
        super().__init__(
            inner_optimizer,
            initial_scale=rule.initial_scale,
            dynamic_growth_steps=growth_steps,
            name=name,
        )
        self.rule = rule
        self.amax_history: Any = None

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Creates the optimizer's variables for a model's trainable ones."""
        var_list = arguments.checked_variables("var_list", var_list)
        if self._amax is not None:
            return
        self._amax = amax = AmaxHistory(var_list)
        for counter in COUNTERS:
            setattr(self, counter, self._add_state(counter, (), "int64"))
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
        var_list = arguments.checked_variables("var_list", var_list)
        real = [v for v in var_list if not is_amax(v)]
        arguments.check_known("var_list", real, self._trainable_variables)
        old, self._amax = self._amax, AmaxHistory(var_list)
        self.amax_history = self._add_state("amax_history", self._amax.shape)
        internals.replace_variable(self, old.history, self.amax_history)
        self._amax.history = self.amax_history
        self._amax.follow(old, float(self.rule.in_use(self.dynamic_scale)))

    @property
    def statistics(self) -> dict[str, float]:
        """The loss scale and the counters, as numbers; read off the device."""
        if self._amax is None:
            none = dict.fromkeys(STATISTICS, 0)
            return {"loss_scale": self.initial_scale, **none}
        read = tf.convert_to_tensor  # also what is mirrored
        counts = {name: int(read(getattr(self, name))) for name in STATISTICS}
        scale = float(self.rule.in_use(self.dynamic_scale))
        return {"loss_scale": scale, **counts}

    def load_own_variables(self, store: Any) -> None:
        """Loads the state of such an optimizer, or of one without FP8.

        A window of another length is cut or filled.  Of the file of a Keras
        `LossScaleOptimizer`, or of the inner optimizer alone, what it has is
        loaded; the rest stays.

        Raises:
            ValueError: if a variable has another shape in the file.  Nothing
                is loaded then.
        """
        pairs = self._amax and saved_state.pairs(self, store, self._amax.fit)
        if pairs is None:  # Keras says why it loads nothing
            return super().load_own_variables(store)
        for variable, value in pairs:
            variable.assign(value)

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
            name = "trainable_variables"
            with lifted():
                self.build(
                    arguments.checked_variables(name, trainable_variables)
                )
        known = self._amax.trainable
        pairs = arguments.checked_pairs(grads, trainable_variables, known)
        observed = self._amax.observed([p for p in pairs if is_amax(p[1])])
        observed = tf.reshape(observed, [-1])
        rest = [p for p in pairs if not is_amax(p[1])]
        gradients = [gradient for gradient, _ in rest]
        bad = fault(gradients, self.rule.in_use(self.dynamic_scale))
        # Replicas see different data: each takes the maximum of all.
        verdict = replicas.maximum(tf.concat([observed, [bad]], axis=0))
        self.overflow_count.assign_add(tf.cast(verdict[-1] > 0, tf.int64))
        self._before = undoing.take()
        # Keras branches on the first list; the second only comes along.
        self._tf_apply([verdict], (gradients, [v for _, v in rest]))
        self._before = undoing.Notes()

    def _stateful_handle_finite_grads(
        self, grads: Any, trainable_variables: Any
    ) -> None:
        [verdict], (grads, trainable_variables) = grads, trainable_variables
        scale = self.rule.in_use(self.dynamic_scale)
        if self.rule.dynamic or self.initial_scale != 1.0:
            grads = unscaled(grads, trainable_variables, scale)
        inner, updates = self.inner_optimizer, (grads, trainable_variables)
        first = internals.starts_accumulation(inner)
        with lost_updates.watched(self.update_probes, inner, updates):
            inner.apply(*updates)
        self.steps_since_overflow.assign_add(1)
        self.skipped_in_a_row.assign(tf.zeros([], tf.int64))
        factor = self._change_scale(self.rule.after_finite_step)
        if self._amax.variables:
            self._amax.push(verdict[:-1], factor, first)

    def _stateful_handle_non_finite_grads(self) -> None:
        factor = self._change_scale(self.rule.after_overflow)
        self.steps_since_overflow.assign(tf.zeros([], tf.int64))
        self.skipped_in_a_row.assign_add(1)
        self.skipped_steps.assign_add(1)
        self._before.undo()
        if self._amax.variables and self.rule.dynamic:
            self._amax.rescale(factor)

    def _change_scale(self, rule: Callable[[ScaleState], ScaleState]) -> Any:
        """Returns the factor by which the loss scale changes."""
        names = ("dynamic_scale", "step_counter", "overflows_since_growth")
        variables = [getattr(self, name) for name in names]
        state = ScaleState(*map(tf.convert_to_tensor, variables))
        after = rule(state)
        for variable, value in zip(variables, after, strict=True):
            variable.assign(value)
        if not self.rule.dynamic:
            return 1.0
        return after.scale / self.rule.in_use(state.scale)

    def scale_loss(self, loss: Any) -> Any:
        """Multiplies the loss by the scale; a static one is a constant."""
        scale = self.dynamic_scale if self.built else self.initial_scale
        return keras.ops.multiply(loss, self.rule.in_use(scale))

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Writes the inner optimizer's averages at the end of training."""
        real = [v for v in var_list if not is_amax(v)]
        super().finalize_variable_values(real)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, the inner optimizer serialised."""
        config = super().get_config()
        del config["dynamic_growth_steps"]
        return {**config, **dataclasses.asdict(self.rule)}
