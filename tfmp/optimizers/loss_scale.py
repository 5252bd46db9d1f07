"""A `LossScaleOptimizer` with bounds, static mode and FP8 delayed scaling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp._keras import optimizer_variables, replicas, step_undo
from tfmp.optimizers import loss_scale_arguments, lost_updates, saved_state
from tfmp.optimizers.amax_history import AmaxHistory
from tfmp.optimizers.as_keras import AsKeras
from tfmp.optimizers.early_variables import lifted
from tfmp.optimizers.gradients import fault, unscaled
from tfmp.optimizers.moving_scale import MovingScale
from tfmp.optimizers.scale_rule import ScaleRule

FORMER = 4  # histories that are kept for layers that come back


@keras.saving.register_keras_serializable("tfmp")
class LossScaleOptimizer(AsKeras, MovingScale):
    """Scales the loss, keeps the FP8 state, and hands the rest inside.

    Dynamic loss scaling (Micikevicius et al., arXiv 1710.03740, section 3.2):

        gradients finite:       update; after `growth_steps` such steps
                                scale = min(scale * factors[0], bounds[1])
        otherwise:              skip; from the `hysteresis`-th time on
                                scale = max(scale * factors[1], bounds[0])

    FP8 delayed scaling (Transformer Engine's user guide), for every tfmp layer
    with a recipe that a variable belongs to, all at once: the largest amax
    observed since the last step goes into the layer's window, and the window's
    maximum is what the next step assumes.  A step with a bad gradient or
    observation changes nothing but the loss scale and the counters.  Gradients
    are bad if their norm, or Adam's squares of them, may not be finite.

    A training that only skips says so, once, by a RuntimeWarning: after 50
    skipped steps in a row, and at the end of a `fit` that skipped most.  Under
    a `tf.function(jit_compile=True)` of the user's own, which cannot call
    Python, `statistics` says it, and saving does.

    Micro-batches of its gradient accumulation share one entry of the window,
    their maximum; one that is skipped is replaced by the next.

    Args:
        inner_optimizer: a Keras optimizer, or its name.  Clipping, weight
            decay, EMA and gradient accumulation are set there.
        initial_scale: the first loss scale, between the bounds.
        growth_steps: finite steps in a row before the scale grows.
        factors: of growing, from 1 + 2**-10 to 2**16, and of backing off,
            from 2**-16 to 1 - 2**-10.
        bounds: the scale never falls below the first, 2**-24 or more, nor
            grows beyond the second, 2**40 at most.
        dynamic: if False, the scale stays at `initial_scale`.  bfloat16 and
            `mixed_float8` need no more than `initial_scale=1, dynamic=False`.
        hysteresis: the scale backs off at this many overflows since it last
            grew, or could have, and at every further one; 1 or more.  One bad
            batch then costs no range.  DeepSpeed's default is 2.
        **kwargs: `name`; `dynamic_growth_steps`, Keras' name of
            `growth_steps`; and what Keras' old files have, if it is the
            default there.

    Attributes:
        dynamic_scale: the loss scale, float32 scalar variable.
        skipped_steps: how many steps were skipped, int64 scalar variable.
        overflow_count: how many of them had gradients too large or not finite;
            the others had an activation that FP8 saturated.
        skipped_in_a_row: how many up to now.
        steps_since_overflow: steps since the last skipped one.
        amax_history: float32 variable of shape `[steps, layers, 3]`, newest
            first.  All are there once built; `statistics` reads them.

    Build it before the first step of an eager custom loop, so that gradients
    of step 0 have the range that the loss scale asks for:
    `optimizer.build(model.trainable_variables)`.

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
    _former: tuple[AmaxHistory, ...] = ()
    update_probes: Any = ()  # monitors', while a measured step is traced

    def __init__(
        self,
        inner_optimizer: Any,
        initial_scale: float = 2.0**15,
        growth_steps: int = 2000,
        factors: tuple[float, float] = (2.0, 0.5),
        bounds: tuple[float, float] = (1.0, 2.0**24),
        dynamic: bool = True,
        hysteresis: int = 1,
        **kwargs: Any,
    ) -> None:
        inner_optimizer = loss_scale_arguments.checked_inner(inner_optimizer)
        name = kwargs.pop("name", None)
        growth_steps = loss_scale_arguments.of_keras(kwargs, growth_steps)
        rule = ScaleRule(
            initial_scale, growth_steps, factors, bounds, dynamic, hysteresis
        )
        super().__init__(inner_optimizer, rule, name)
        self.amax_history: Any = None

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Creates the optimizer's variables for a model's trainable ones."""
        var_list = loss_scale_arguments.checked_variables("var_list", var_list)
        if self._amax is None:
            self._build(var_list, has_run=False)

    def _build(self, var_list: Sequence[Any], has_run: bool) -> None:
        """Creates the variables.

        Args:
            var_list: checked.
            has_run: whether a first pass has run under this loss scale.
        """
        self.inner_optimizer.build(var_list)
        self.make_scale()
        amax = AmaxHistory(var_list)
        self.amax_history = self.add_state("amax_history", amax.shape)
        amax.history = self.amax_history
        amax.start(self.initial_scale, keep=has_run or amax.is_restored)
        keras.optimizers.Optimizer.build(self, var_list)
        self._amax = amax  # at last: an error before leaves it to be built

    def rebuild(self, var_list: Sequence[keras.Variable]) -> None:
        """Follows a model that was converted since the optimizer was built.

        The variables must be the same; what was observed of a layer is kept,
        as is all state of the inner optimizer.  `tfmp.convert` calls it for
        the optimizer that a model is compiled with, and `apply` by itself
        unless a strategy of `tf.distribute` runs it.

        Args:
            var_list: the model's trainable variables.
        """
        if self._amax is None:
            self.build(var_list)
            return
        var_list = loss_scale_arguments.checked_variables("var_list", var_list)
        loss_scale_arguments.check_known(
            "var_list", var_list, self._trainable_variables
        )
        if self._amax.is_of(var_list):
            return
        old, new = self._amax, self._history_of(var_list)
        new.follow(old, float(self.rule.in_use(self.dynamic_scale)))
        optimizer_variables.replace_variable(self, old.history, new.history)
        self._amax, self.amax_history = new, new.history

    def _history_of(self, var_list: Sequence[keras.Variable]) -> AmaxHistory:
        """Returns an earlier one of the same layers, which programs know."""
        former = [*self._former, self._amax]
        new = next((each for each in former if each.is_of(var_list)), None)
        if new is None:
            new = AmaxHistory(var_list)
            new.history = self.add_state("amax_history", new.shape)
        else:
            former.remove(new)
        self._former = tuple(former[-FORMER:])
        return new

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
            super().load_own_variables(store)
            return
        for variable, value in pairs:
            variable.assign(value)

    def apply(
        self, grads: Sequence[Any], trainable_variables: Any = None
    ) -> None:
        """Applies the gradients, and takes in what FP8 layers observed.

        Args:
            grads: of the scaled loss, one a variable; None where there is
                none.
            trainable_variables: the variables; by default those that the
                optimizer was built with.

        Raises:
            ValueError: if there is not one gradient for each variable, or
                the optimizer was not built with one of the variables.
        """
        self._prepare(trainable_variables)
        known = self._trainable_variables
        pairs = loss_scale_arguments.checked_pairs(
            grads, trainable_variables, known
        )
        gradients, variables = [p[0] for p in pairs], [p[1] for p in pairs]
        scale = self.rule.in_use(self.dynamic_scale)
        observed = tf.reshape(self._amax.observed(), [-1])
        bad = fault(gradients, scale)
        # Replicas see different data: each takes the maximum of all.
        verdict = replicas.maximum(tf.concat([observed, [bad]], axis=0))
        good = tf.reduce_all(tf.math.is_finite(verdict))
        factor = self.count(good, verdict[-1] > 0)
        if self._amax.states:
            first = optimizer_variables.starts_accumulation(
                self.inner_optimizer
            )
            self._amax.renew(verdict[:-1], good, factor, first)
        self._before = step_undo.take()
        # Keras branches on the first list; the second only comes along.
        self._tf_apply([verdict], (gradients, variables, scale))
        self._before = step_undo.Notes()

    def _prepare(self, trainable_variables: Any) -> None:
        """Builds the optimizer, or follows layers that were converted."""
        if self._amax is None:
            checked = loss_scale_arguments.checked_variables(
                "trainable_variables", trainable_variables
            )
            has_run = tf.executing_eagerly()  # else it is traced, and not run
            with lifted():
                self._build(checked, has_run)
        elif not self._amax.is_of(self._trainable_variables):
            if not tf.distribute.has_strategy():
                with lifted():
                    self.rebuild(self._trainable_variables)

    def _stateful_handle_finite_grads(
        self, grads: Any, trainable_variables: Any
    ) -> None:
        grads, trainable_variables, scale = trainable_variables
        if self.rule.dynamic or self.initial_scale != 1.0:
            grads = unscaled(grads, trainable_variables, scale)
        inner, updates = self.inner_optimizer, (grads, trainable_variables)
        with lost_updates.watched(self.update_probes, inner, updates):
            inner.apply(*updates)

    def _stateful_handle_non_finite_grads(self) -> None:
        self._before.undo()
        self.skips.step_was_skipped(self)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, the inner optimizer serialised."""
        config = super().get_config()
        del config["dynamic_growth_steps"]
        pairs = {
            "factors": list(self.rule.factors),  # as JSON has them
            "bounds": list(self.rule.bounds),
        }
        return {**config, **dataclasses.asdict(self.rule), **pairs}
