"""`AdaptivePrecision`: each layer in the lowest precision it trains well in."""

from __future__ import annotations

import collections
import os
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from tfmp._keras.callback_states import Logs
from tfmp._monitoring.quiet_log import QuietLog
from tfmp._monitoring.sample_log import Sample
from tfmp._monitoring.step_count import StepCount
from tfmp._support import checks
from tfmp._support.changes import Change, tell
from tfmp._switching.hysteresis import PrecisionRule
from tfmp._switching.loss_watch import LossState, LossWatch, Rollback
from tfmp.callbacks.callback_states import Kept
from tfmp.callbacks.float8_forecasts import ShadowSampler
from tfmp.callbacks.good_states import GoodStates
from tfmp.callbacks.ladder_arguments import checked_ladder, checked_patterns
from tfmp.callbacks.precision_ladders import Ladder, Moves

MAX_SAMPLES = 4096
LADDER = ("mixed_float8", "mixed_bfloat16", "float32")


class AdaptivePrecision(keras.callbacks.Callback, Kept):
    """Moves each layer up and down a ladder of precisions while it trains.

    Every `every` steps one is measured, as `ScaleMonitor` does it: what FP8
    did to a layer's tensors, or would have done.  Layer by layer, `rule` says
    who goes up, and who comes down.

    The loss is watched at each step; `rollback` says when it is in trouble.
    Then the training goes back to its last good state, bit for bit: all
    variables, optimizer, loss scale, FP8 windows, seeds and metrics.  A finite
    loss has one step more measured before: the layers go up that are in FP8
    and out of the rule's `up` in it, or of `down`; if there are none, all of
    the lowest precision.  The batches go on.  A state is kept in memory, good
    once another was without trouble.  If no layer can go up, the precision is
    not at fault: it is said, and nothing is done.

    What a change keeps is in `PrecisionScheduler`, which is not for the same
    layers.  A change traces the step once, and once more when it is next
    measured.  In a measured step, layers that are not in FP8 may round
    bfloat16 at other places; all others run as without this callback.

    The layers are those that `tfmp.convert` can have in FP8, if they have a
    policy of the ladder when training begins.  Nothing is changed then.
    Scores and values of attention stay with their layer's policy.  After a
    restart by `tfmp.callbacks.BackupAndRestore`, precision, counts and what
    is known of the loss are as they were; the first state to go back to is
    that of the restart.

    Args:
        ladder: policies from low to high.
        layers: a list of patterns of paths, read as in `PrecisionMap`; None
            for all.
        every: steps between two observations, 1 or more.
        rule: a `PrecisionRule`; None for its defaults.
        rollback: a `Rollback`; None for its defaults.
        log_dir: a local folder of its own for what `ScaleMonitor` writes
            there; None for no files.
        elements: how many elements of each tensor are looked at, about.

    Attributes:
        changes: every `Change` so far.
        samples: what was observed, as of `ScaleMonitor`, with
            `<layer path>/bits` and `float8_share`, of the FLOPs.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of its range, or `ladder` does not
            rise; by `fit`, before it trains, if no layer has a policy of the
            ladder.

    >>> from tfmp import layers
    >>> layer = layers.Dense(2, dtype="mixed_float8", name="head")
    >>> model = keras.Sequential([keras.Input([4]), layer], name="net")
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones([6, 4]), keras.ops.ones([6, 2])
    >>> adaptive = AdaptivePrecision(every=2)
    >>> history = model.fit(x, y, 1, verbose=0, callbacks=[adaptive])
    >>> adaptive.changes, adaptive.samples[-1]["net/head/bits"]
    ([], 8)
    """

    def __init__(
        self,
        ladder: Any = LADDER,
        layers: Any = None,
        every: int = 16,
        rule: PrecisionRule | None = None,
        rollback: Rollback | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        elements: int | None = 2**14,
    ) -> None:
        super().__init__()
        self.ladder = checked_ladder(ladder)
        self._patterns = checked_patterns(layers)
        self.every = checks.integer("every", every, 1)
        self.rule = PrecisionRule() if rule is None else rule
        said = "a tfmp.callbacks.PrecisionRule or None"
        checks.instance("rule", self.rule, PrecisionRule, said)
        self.rollback = Rollback() if rollback is None else rollback
        said = "a tfmp.callbacks.Rollback or None"
        checks.instance("rollback", self.rollback, Rollback, said)
        self.log_dir = (
            None if log_dir is None else checks.path("log_dir", log_dir)
        )
        if elements is not None:
            checks.integer("elements", elements, 1)
        self._elements = elements
        self.changes: list[Change] = []
        self._samples = collections.deque[Sample](maxlen=MAX_SAMPLES)
        self._of: keras.Model | None = None
        self._log: QuietLog | None = None

    @property
    def samples(self) -> list[dict[str, float]]:
        """The newest 4096 samples, as of `ScaleMonitor`."""
        return [sample.record() for sample in self._samples]

    def on_train_begin(self, logs: Logs = None) -> None:
        """Looks at the model, and opens the files."""
        if self._of is not self.model:
            self._begin_with(self.model)
        self._wrong, self._gave_up = "", False
        if self._log is not None:
            self._log.close()
        self._log = QuietLog(
            type(self).__name__, self.log_dir, self.model, self.every
        )

    def _begin_with(self, model: keras.Model) -> None:
        self._of = model
        self._layers = Ladder(model, self.ladder, self.rule, self._patterns)
        self._sampler = ShadowSampler(model, self._elements)
        self._count = StepCount(self.every)
        self._loss = LossWatch(self.rollback.spike, self.rollback.window)
        self._states = GoodStates(model)
        self._look_at_layers()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts counting where the last epoch, or the optimizer, is."""
        batches = (self.params or {}).get("steps")
        self._count.begin_epoch(epoch, self.model.optimizer, batches)
        self._loss.begin_epoch()
        self._layers.follow()
        self._look_at_layers()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Has the execution measured if it is one to measure."""
        if self._states.is_empty and self.model.optimizer.built:
            self._keep()
        batches = self.model.steps_per_execution
        if self._count.begin_execution(batch, batches) or self._wrong:
            self._sampler.arm()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Looks at the loss, and if it is time at the layers."""
        before = self._count.step
        due = self._count.end_execution(batch)
        step, wrong = self._count.step, self._look_at_loss(logs, before)
        if self._wrong or (wrong and not self._loss.is_finite):
            self._recover(self._wrong or wrong, logs)
        elif wrong:
            self._wrong = wrong  # the next step is measured
        elif due:
            self._observe(logs)
        if self._loss.is_calm:
            every = self.rollback.keep_every
            if before // every < step // every:
                self._keep()

    def _look_at_loss(self, logs: Logs, before: int) -> str:
        if not logs or "loss" not in logs:
            return ""
        return self._loss.look(float(logs["loss"]), self._count.step - before)

    def on_train_end(self, logs: Logs = None) -> None:
        """Closes the files, and gives the model its own step back."""
        if self._log is not None:
            self._log.close()
        self._sampler.stop()

    def get_state(self) -> dict[str, Any]:
        """Returns what a backup keeps: counts, the loss, the changes."""
        return {
            "changes": [change.to_dict() for change in self.changes],
            "count": self._count.get_state(),
            "layers": self._layers.get_state(),
            "loss": self._loss.get_state()._asdict(),
            "measured": self._sampler.get_state(),
            "trouble": (self._wrong, self._gave_up),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a backup."""
        self.changes = [Change(**each) for each in state["changes"]]
        self._count.set_state(state["count"])
        self._layers.set_state(state["layers"])
        self._loss.set_state(LossState(**state["loss"]))
        self._sampler.set_state(state["measured"])
        self._wrong, self._gave_up = state["trouble"]
        self._states = GoodStates(self.model)
        self._look_at_layers()

    def _keep(self) -> None:
        self._states.keep(self._count.step, self._count.epoch, self._loss)

    def _observe(self, logs: Logs) -> None:
        sample = self._sampler.take(self._count, logs)
        moves = self._layers.observe(sample.measured)
        self._record(sample, self._move(moves))

    def _recover(self, wrong: str, logs: Logs) -> None:
        """Goes back to the good state, and up."""
        sample = self._sampler.take(self._count, logs)
        measured = sample.measured if self._wrong else {}
        suspects, self._wrong = self._layers.suspects(measured), ""
        if not suspects:
            self._give_up(wrong)
            return
        good = self._states.go_back(self._count.epoch, self._loss)
        back = f"; back to step {good.step}" if good else ""
        change = self._change("rollback", "", "", "", wrong + back)
        moves = self._layers.raised(suspects, wrong)
        self._record(sample, [change, *self._move(moves)])

    def _move(self, moves: Moves) -> list[Change]:
        """Gives layers the places that they are to have."""
        made = [self._change(*words) for words in self._layers.move(moves)]
        if moves:
            self._look_at_layers()
        return made

    def _change(self, kind: str, *words: str) -> Change:
        return Change(self._count.step, self._count.epoch, kind, *words)

    def _look_at_layers(self) -> None:
        self._state = self._layers.state()
        self._sampler.shadows = self._layers.shadows()

    def _record(self, sample: Sample, made: list[Change]) -> None:
        """Adds a sample and the changes after it to what is known of both."""
        self.changes += made
        sample = sample._replace(
            state={**sample.state, **self._state},
            findings=(),
            changes=tuple(made),
        )
        self._samples.append(sample)
        if self._log is not None:
            self._log.write(sample)
        if made:
            tell(made)

    def _give_up(self, wrong: str) -> None:
        """Says, once a `fit`, that there is trouble of another kind."""
        if not self._gave_up:
            self._gave_up = True
            warnings.warn(
                f"step {self._count.step}: {wrong}, and no layer can go up: "
                "the precision is not at fault",
                RuntimeWarning,
                stacklevel=2,
            )
