"""`TerminateOnOverflow`: no training on skipped steps for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfmp._keras.callback_states import Logs
from tfmp._monitoring.step_count import steps_taken
from tfmp._support import checks
from tfmp.callbacks.callback_states import Kept
from tfmp.callbacks.newest_batch import NewestBatch
from tfmp.debug.diagnosis import diagnose
from tfmp.debug.findings import NonFinite, NonFiniteError, TooLarge
from tfmp.optimizers import LossScaleOptimizer

LOOKS = 4


class TerminateOnOverflow(keras.callbacks.Callback, Kept):
    """Ends training if step after step is skipped, and says what overflows.

    A step with a non-finite gradient is skipped and the loss scale falls; a
    few in a row are usual.  If they do not end, something else than the loss
    scale is at fault, and training goes on for ever without learning.  This
    callback then raises a `tfmp.debug.NonFiniteError` that names the step, the
    loss scale, and the first tensor that is not finite when the batch that
    failed last is run again by `tfmp.debug.find_nonfinite`.  The weights are
    those after the last good step.

    It looks at `optimizer.skipped_in_a_row` every `max_skipped_steps // 4`
    steps.  Once that many were skipped it looks at every step and keeps the
    newest batch; under `jit_compile` XLA compiles the step once more then.
    Under `steps_per_execution` Keras calls back once an execution, so that the
    end may come up to two executions later.  Under a strategy the replicas'
    batches are run one after another.  The count is the optimizer's own, and
    goes on from one `fit` to the next.

    For plain Keras optimizers, which skip no step, there is
    `keras.callbacks.TerminateOnNaN`.

    Args:
        max_skipped_steps: steps in a row to skip until training ends, 2 or
            more: one alone is how a loss scale finds its limit.

    Raises:
        TypeError: if `max_skipped_steps` is not an integer.
        ValueError: if it is less than 2; by `fit`, before it trains, if the
            model's optimizer is not a `tfmp.optimizers.LossScaleOptimizer`.

    >>> layer = keras.layers.Dense(1, kernel_initializer="ones", name="head")
    >>> model = keras.Sequential([keras.Input([4]), layer], name="net")
    >>> model.compile(LossScaleOptimizer("sgd"), "mse")
    >>> x, y = 1e20 * keras.ops.ones([6, 4]), keras.ops.ones([6, 1])
    >>> callback = TerminateOnOverflow(max_skipped_steps=3)
    >>> model.fit(x, y, 1, verbose=0, callbacks=[callback])
    Traceback (most recent call last):
    tfmp.debug.findings.NonFiniteError: 3 steps in a row were skipped, the last
    one step 3 at loss scale 8192; first non-finite value: loss, float32 []: 0
    NaN, 1 infinite, first at []; largest magnitude just before: 4e+20
    """

    def __init__(self, max_skipped_steps: int = 50) -> None:
        super().__init__()
        self.max_skipped_steps = checks.integer(
            "max_skipped_steps", max_skipped_steps, 2
        )
        self._every = max(1, max_skipped_steps // LOOKS)
        self._unseen = 0
        self._newest: NewestBatch | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        """Checks the optimizer."""
        self._forget()
        optimizer = self.model.optimizer
        if not isinstance(optimizer, LossScaleOptimizer):
            raise ValueError(
                "`optimizer` of a model that is trained with "
                "TerminateOnOverflow must be a "
                "tfmp.optimizers.LossScaleOptimizer, given to `compile`: it "
                "counts the steps that it skips. For other optimizers of the "
                "model look at their `statistics`. "
                f"Received: {type(optimizer).__name__}"
            )
        self._look()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Has the batch kept, if steps were skipped before."""
        if self._newest is not None:
            self._newest.announce()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Looks at the count, if it is time to."""
        self._unseen += self.model.steps_per_execution
        if self._newest is not None or self._unseen >= self._every:
            self._look()

    def on_train_end(self, logs: Logs = None) -> None:
        """Gives the model back."""
        self._forget()

    def get_state(self) -> dict[str, Any]:
        """Returns what a backup keeps: when it will look, and how closely."""
        watches = self._newest is not None
        return {"unseen": self._unseen, "watches": watches}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a backup."""
        self._forget()
        self._unseen = state["unseen"]
        if state["watches"]:
            self._newest = NewestBatch(self.model)

    def _look(self) -> None:
        self._unseen = 0
        optimizer = self.model.optimizer
        in_a_row = 0
        if optimizer.built:
            in_a_row = int(optimizer.skipped_in_a_row.numpy())
        if not in_a_row:
            self._forget()
        elif self._newest is None and in_a_row >= self._every:
            self._newest = NewestBatch(self.model)
        elif self._newest is not None and self._newest.batch is not None:
            if in_a_row >= self.max_skipped_steps:
                self._terminate(in_a_row, self._newest)

    def _forget(self) -> None:
        if self._newest is not None:
            self._newest.remove()
        self._newest = None

    def _terminate(self, in_a_row: int, newest: NewestBatch) -> None:
        self._forget()
        step = steps_taken(self.model.optimizer)
        message = (
            f"{in_a_row} steps in a row were skipped, the last one step "
            f"{step} at loss scale {newest.loss_scale:g}; "
        )
        try:
            finding = _diagnosed(self.model, newest)
        except Exception as fault:
            # What ends training is the overflow, and not a pass that fails.
            message += f"the diagnosis failed: {type(fault).__name__}: {fault}"
            raise NonFiniteError(message, None, step) from fault
        nothing = "run again eagerly, the last batch is finite everywhere"
        raise NonFiniteError(message + str(finding or nothing), finding, step)


def _diagnosed(
    model: keras.Model, newest: NewestBatch
) -> NonFinite | TooLarge | None:
    """Looks at the batch of each replica as that replica saw it."""
    strategy = model.distribute_strategy
    leaves = [
        strategy.experimental_local_results(leaf)
        for leaf in keras.tree.flatten(newest.batch)
    ]
    batches = [
        keras.tree.pack_sequence_as(newest.batch, local)
        for local in zip(*leaves, strict=True)
    ]
    # Keras divides the mean over a batch by the number of replicas.
    replicas = strategy.num_replicas_in_sync
    scale = newest.loss_scale
    return diagnose(model, batches, lambda loss: loss * scale, replicas)
