"""`PrecisionScheduler`: precision as a function of the epoch or the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfmp._keras.callback_states import Logs
from tfmp._monitoring.step_count import StepCount
from tfmp._support import checks
from tfmp._support.changes import Change, tell
from tfmp._switching import precisions
from tfmp._switching.switch import Wanted, news, present
from tfmp.callbacks.callback_states import Kept
from tfmp.callbacks.kept_programs import KeptPrograms
from tfmp.conversion.plan import Conversion
from tfmp.conversion.records import flatten

UNITS = ("epoch", "step")
ASKED = ("", "asked for")
SAID = (
    "a dictionary of epochs or steps to precisions, a list of such pairs, or "
    "a function"
)


class PrecisionScheduler(keras.callbacks.Callback, Kept):
    """Changes the precision of a model's layers while `fit` trains it.

        precision(t) = base, then every entry of the schedule up to t, in order

    where `t` is the epoch or the step, from 0, and `base` is what the model
    had when this callback first saw it.  So the precision depends on `t`
    alone, and a run that starts within the schedule is right at once:

        PrecisionScheduler({0: "mixed_bfloat16", 2: "mixed_float8",
                            9: {"head|block_.*/attn": "mixed_bfloat16"}})

    An entry is what `tfmp.set_precision` takes, or the config of it; of a
    dictionary of paths, or a `PrecisionMap`, layers that no key names stay as
    they are.  A function is asked at the start of each epoch:

        def schedule(epoch, current):  # higher, once the rate has decayed
            rate = float(model.optimizer.learning_rate)
            return "mixed_float8" if rate > 1e-4 else "mixed_bfloat16"

    `current` has the name of each layer's policy by path, and None means that
    nothing changes.  For what it returns to be right after a restart, it has
    to depend on the epoch and on what a backup holds.

    All state is kept across a change, bit for bit: weights, the optimizer's
    slots, iteration and loss scale, seeds, metrics, and the windows of layers
    that stay in FP8.  A layer that becomes FP8 starts with a fresh scale, one
    that comes back with the one it had.  The step is traced, and compiled,
    once a change; evaluation likewise.  After an error the model is as it was.
    If the optimizer is a built one of Keras, the first layer in FP8 puts it
    inside a `tfmp.optimizers.LossScaleOptimizer`.

    Changes by step are made before the execution that begins with it or
    after: under `steps_per_execution` once an execution.

    With `tfmp.callbacks.BackupAndRestore`, put this one before it.

    Args:
        schedule: a dictionary of epochs or steps to precisions, a list of
            such pairs, or a function of epoch and precision.
        unit: `"epoch"` or `"step"`.
        programs: how many precisions to keep compiled steps of until `fit`
            ends, 0 or more, in case that they come back.  Such a step is used
            if every layer, variable and attribute is as when it was traced.
            What functions read from elsewhere, such as global variables, is
            not compared: leave 0 if callbacks change that.

    Attributes:
        changes: every `Change` so far.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `schedule` is empty, has a time twice, a time less than
            0 or a precision that is not allowed in training, or `unit` is
            another; by `fit`, before it trains, if no layer has a path like
            one that `schedule` names.

    >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones([6, 4]), keras.ops.ones([6, 2])
    >>> scheduler = PrecisionScheduler({1: "mixed_bfloat16"})
    >>> _ = model.fit(x, y, 2, epochs=2, verbose=0, callbacks=[scheduler])
    >>> [(c.step, c.before, c.after) for c in scheduler.changes]
    [(3, 'float32', 'mixed_bfloat16')]
    """

    def __init__(
        self, schedule: Any, unit: str = "epoch", programs: int = 0
    ) -> None:
        super().__init__()
        most = checks.integer("programs", programs, 0)
        self._programs = KeptPrograms(most)
        self.unit = checks.choice("unit", unit, UNITS)
        self._function: Callable[..., Any] | None = None
        self._entries: list[tuple[int, Conversion]] = []
        if callable(schedule) and not isinstance(schedule, Mapping):
            self._function = schedule
            if unit != "epoch":
                raise ValueError(
                    "`unit` must be 'epoch' if `schedule` is a function. "
                    f"Received: {unit!r}"
                )
        else:
            self._entries = _entries(schedule)
        self.changes: list[Change] = []
        self._base: dict[str, Wanted] = {}
        self._of: keras.Model | None = None
        self._count = StepCount(1)
        self._done = -1

    def on_train_begin(self, logs: Logs = None) -> None:
        """Holds the whole schedule against the model."""
        self._done = -1
        self._programs.empty()
        if self._of is not self.model:
            self._of = self.model
            self._count = StepCount(1)
            self._base = {
                path: Wanted(policy, "as before the schedule")
                for path, policy in present(self.model).items()
            }
        if self.model.built:
            self._check_paths()
            self._planned(len(self._entries))

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Puts the precision of this epoch in force."""
        batches = (self.params or {}).get("steps")
        self._count.begin_epoch(epoch, self.model.optimizer, batches)
        if self._function is not None:
            self._ask(self._function, epoch)
        elif self.unit == "epoch":
            self._reach(epoch)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Puts the precision of this step in force."""
        self._count.begin_execution(batch, self.model.steps_per_execution)
        if self.unit == "step":
            self._reach(self._count.step)
        self._programs.step_begins(self.model)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Counts."""
        self._count.end_execution(batch)

    def on_train_end(self, logs: Logs = None) -> None:
        """Forgets the compiled steps that are not in use."""
        self._programs.empty()

    def get_state(self) -> dict[str, Any]:
        """Returns what a backup keeps: where it is, and what it changed."""
        changes = [change.to_dict() for change in self.changes]
        return {"count": self._count.get_state(), "changes": changes}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a backup."""
        self._count.set_state(state["count"])
        self.changes = [Change(**each) for each in state["changes"]]

    def _reach(self, time: int) -> None:
        """Changes what has to, if an entry has come since the last time."""
        entries = sum(start <= time for start, _ in self._entries)
        if entries != self._done:
            said = f"the schedule, {self.unit} {time}"
            self._change(self._planned(entries), said)
            self._done = entries

    def _planned(self, entries: int) -> dict[str, Wanted]:
        """Returns what the first entries make of each layer."""
        found = dict(self._base)
        for start, plan in self._entries[:entries]:
            reason = f"the schedule, {self.unit} {start}"
            found.update(_decided(self.model, plan, reason))
        return found

    def _ask(self, schedule: Callable[..., Any], epoch: int) -> None:
        now = present(self.model).items()
        current = {path: precisions.label(policy) for path, policy in now}
        given = schedule(epoch, current)
        if given is not None:
            plan = precisions.checked(f"schedule({epoch}, ...)", given)
            said = f"the schedule, asked at epoch {epoch}"
            self._change(_decided(self.model, plan, said), said)

    def _change(self, wanted: Mapping[str, Wanted], reason: str) -> None:
        changed, before = news(self.model, wanted), present(self.model)
        if not changed:
            return
        self._programs.switch(self.model, changed)
        made = [
            Change(
                self._count.step,
                self._count.epoch,
                "scheduled",
                path,
                precisions.label(before[path]),
                precisions.label(each.policy),
                reason,
            )
            for path, each in changed.items()
        ]
        self.changes += made
        tell(made)

    def _check_paths(self) -> None:
        layers = flatten(self.model)
        paths = [*layers, *(layer.path or "" for layer in layers.values())]
        for start, plan in self._entries:
            if unknown := plan.policy.unmatched(paths):
                raise ValueError(
                    f"`schedule[{start}]` must name layers of the model "
                    f"{self.model.name!r}, which has none with a path like "
                    f"that. Received: {unknown}"
                )


def _entries(schedule: Any) -> list[tuple[int, Conversion]]:
    pairs = schedule
    if isinstance(schedule, Mapping):
        pairs = list(schedule.items())
    found: dict[int, Conversion] = {}
    for pair in checks.sequence("schedule", pairs, tuple | list, SAID):
        if len(pair) != 2:
            raise TypeError(
                f"`schedule` must be {SAID}. Received: {schedule!r}"
            )
        time = checks.integer("a time of `schedule`", pair[0], 0)
        if time in found:
            raise ValueError(
                f"`schedule` must have each time once. Received: {time} twice"
            )
        found[time] = precisions.checked(f"schedule[{time}]", pair[1])
    if not found:
        raise ValueError(f"`schedule` must be {SAID}. Received: nothing")
    return sorted(found.items())


def _decided(
    model: keras.Model, plan: Conversion, reason: str
) -> dict[str, Wanted]:
    """Returns what a plan makes of each layer, with why and by whom."""
    return {
        path: Wanted(policy, reason if why in ASKED else f"{why}; {reason}")
        for path, (policy, why) in plan.decisions(model, model.name).items()
    }
