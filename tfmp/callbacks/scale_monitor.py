"""`ScaleMonitor`: every scale of a training, where it can be seen."""

from __future__ import annotations

import collections
import math
import os
import time
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from tfmp._keras import frames
from tfmp._keras.callback_states import Logs
from tfmp._monitoring.history import append
from tfmp._monitoring.quiet_log import QuietLog
from tfmp._monitoring.sample_log import Sample
from tfmp._monitoring.sampler import Sampler
from tfmp._monitoring.step_count import StepCount
from tfmp._monitoring.unmeasured import unmeasured
from tfmp._support import checks
from tfmp.callbacks.callback_states import Kept
from tfmp.callbacks.new_changes import NewChanges

MAX_SAMPLES = 4096
MAX_TOLD = 5


class ScaleMonitor(keras.callbacks.Callback, Kept):
    """Records the loss scale, every FP8 scale, and what quantization costs.

    A sample is taken when the step count passes a multiple of `every`, and at
    the end of each epoch, by one read of the device.  It holds

    | name               | what                                  | unit   |
    |--------------------|---------------------------------------|--------|
    | `loss_scale`       | factor on the loss, next step         |        |
    | `skipped_steps`    | steps skipped since the start         | steps  |
    | `overflow_count`   | those with a bad gradient             | steps  |
    | `<tensor>/amax`    | largest magnitude to assume next      |        |
    | `<tensor>/scale`   | factor before the next cast to FP8    |        |

    and, of a step that was measured,

    | name                        | what                          | unit   |
    |-----------------------------|-------------------------------|--------|
    | `<tensor>/observed_amax`    | largest magnitude there was   |        |
    | `<tensor>/underflow_share`  | flushed to zero / not zero    | 0 to 1 |
    | `<tensor>/saturation_share` | clipped / all                 | 0 to 1 |
    | `<tensor>/sqnr`             | signal / quantization noise   | dB     |
    | `<tensor>/range_share`      | binades in use / the format's | 0 to 1 |
    | `<tensor>/lag`              | log2(scale / best scale)      | bits   |
    | `lost_updates_share`        | lost to rounding / all        | 0 to 1 |

    The first three are of `model.optimizer`, whatever else there is.
    A tensor is `<layer path>/<role>`, with a role of `"inputs"`, `"kernel"` or
    `"grads"`; the guide "Reading the monitor" says more.  A scale that
    is too large clips (`lag` above 0), a smaller one leaves range unused.

        scale = 2**(floor(log2(max / amax)) - margin)

    Values of `grads` are those of the gradient of the *scaled* loss.  An amax
    of zero is not observed yet: the scale comes from a prior.  No scale and no
    lag has a role under current scaling, and a frozen layer; no value what is
    not there, and updates can be lost by variables of 16 bits only.  Emulated
    layers are in no sample: they keep no scale, and each product rounds its
    operands along other axes.

    Measured steps run another program, in which the operators measure what
    they quantize; Keras traces and compiles it once more, at the first sample.
    All other steps run as without a monitor.  Measured is the execution that
    passes a multiple of `every`, and in an epoch the last but one, for the
    last batch is often smaller; never the first of all.  Values of replicas
    and of all steps of an execution are merged; of other workers nothing is
    read.  What a `tf.function` of your own computes inside of a step is not
    measured: it keeps the trace that it has, and Keras needs none.

    Where it goes:

    - `History.history`: the newest values at the end of each epoch, NaN where
      none was measured.  They are not in `logs`: the progress bar stays as it
      is.
    - `samples` and `findings`: of the newest 4096 samples, in memory.
    - `log_dir/scales.jsonl`: a line for each sample, with the same names, the
      `logs` of Keras, the `findings`, and `histograms`: by tensor the lowest
      exponent `floor(log2(abs(x) * scale))` and the counts from there.  null
      stands for what is not finite.  Lines are appended, whole.  `changes`
      has each `Change` of precision since the line before, by other callbacks.
    - `log_dir/run.json`: the formats of all tensors, and versions.
    - `log_dir/scales/`: the same for TensorBoard, by step; changes in words.

    What is wrong in two samples in a row is said in a warning, once: a quarter
    of a tensor underflows, a hundredth is clipped and less than 20 dB are left,
    less than 10 dB are left, half of the updates are lost, the loss is not
    finite, all steps are skipped.  `tfmp report LOG_DIR` draws it all.

    Steps go on from one `fit` to the next, and from where a restored
    optimizer stands.  Under `steps_per_execution` Keras calls back, and a
    sample can be taken, once an execution; if the length of the dataset is
    unknown, its last execution counts in full.  A sample that cannot be
    written is warned of once, and training goes on.

    Args:
        log_dir: a local folder, or None for no files.
        every: steps between two samples, 1 or more.
        statistics: whether steps are measured.
        elements: how many elements of each tensor are looked at, about, for
            all but the amax: whole rows, evenly spread.  None for all.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `every` or `elements` is less than 1; by `fit`, before
            it trains, if `log_dir` cannot be written to.

    >>> from tfmp import layers
    >>> layer = layers.Dense(2, dtype="mixed_float8", name="head")
    >>> model = keras.Sequential([keras.Input([4]), layer], name="net")
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones([6, 4]), keras.ops.ones([6, 2])
    >>> monitor = ScaleMonitor(every=2)
    >>> history = model.fit(x, y, 1, verbose=0, callbacks=[monitor])
    >>> [sample["step"] for sample in monitor.samples]
    [2, 4, 6]
    >>> monitor.samples[-1]["net/head/inputs/amax"]
    1.0
    >>> monitor.samples[-1]["net/head/inputs/underflow_share"]
    0.0
    >>> history.history["net/head/inputs/scale"]
    [256.0]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        every: int = 16,
        statistics: bool = True,
        elements: int | None = 2**14,
    ) -> None:
        super().__init__()
        self.log_dir = (
            None if log_dir is None else checks.path("log_dir", log_dir)
        )
        self.every = checks.integer("every", every, 1)
        self.statistics = checks.boolean("statistics", statistics)
        if elements is not None:
            checks.integer("elements", elements, 1)
        self.elements = elements
        self._samples: collections.deque[Sample] = collections.deque(
            maxlen=MAX_SAMPLES
        )
        self._sampler: Sampler | None = None
        self._log: QuietLog | None = None
        self._count = StepCount(self.every)
        self._changes = NewChanges([])
        self._known: dict[str, float] = {}
        self._warned: set[str] = set()

    @property
    def findings(self) -> list[str]:
        """What was wrong in the newest samples, and what to do about it."""
        return [text for sample in self._samples for text in sample.findings]

    @property
    def samples(self) -> list[dict[str, float]]:
        """The newest samples: `step`, `epoch`, `time` and the values by name.

        `epoch` counts from 0, `time` is in seconds since 1970.  They start
        anew when the monitor is given another model to train.
        """
        return [sample.record() for sample in self._samples]

    def on_train_begin(self, logs: Logs = None) -> None:
        """Opens the files."""
        if self._sampler is None or self._sampler.model is not self.model:
            self._sampler = Sampler(
                self.model,
                statistics=self.statistics,
                elements=self.elements,
            )
            self._count, self._known = StepCount(self.every), {}
            self._samples.clear()
        self._started = False
        self._close()
        self._log = QuietLog(
            type(self).__name__, self.log_dir, self.model, self.every
        )
        self._changes = NewChanges(frames.callbacks_beside())

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts counting where the last epoch, or the optimizer, is."""
        optimizer = getattr(self.model, "optimizer", None)
        batches = (self.params or {}).get("steps")
        self._count.begin_epoch(epoch, optimizer, batches)
        self._known = dict.fromkeys(self._known, math.nan)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Has the execution measured if it is one to measure."""
        batches = self.model.steps_per_execution
        if self._count.begin_execution(batch, batches) and self._sampler:
            self._sampler.arm()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Takes a sample if a multiple of `every` was passed."""
        if self._count.end_execution(batch):
            self._sample(logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Takes a sample unless the last step did, and tells History."""
        if not self._count.in_epoch:
            return
        if not self._samples or self._samples[-1].step != self._count.step:
            self._sample(logs)
        history = getattr(self.model, "history", None)
        if isinstance(history, keras.callbacks.History) and self._samples:
            values = {**self._known, **self._samples[-1].items()}
            append(history.history, values)

    def on_train_end(self, logs: Logs = None) -> None:
        """Writes what other callbacks changed last, and closes the files."""
        if changes := self._changes.take():
            at = self._count.step, self._count.epoch, time.time()
            self._write(Sample(*at, {}, changes=changes))
        self._close()
        if self._sampler is not None:
            self._sampler.stop()

    def get_state(self) -> dict[str, Any]:
        """Returns what a backup keeps: where it is, and what it has told."""
        newest = self._samples[-1].core() if self._samples else None
        return {
            "count": self._count.get_state(),
            "told": self._changes.told,
            "known": self._known,
            "newest": newest,
            "sampler": self._sampler and self._sampler.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a backup."""
        self._count.set_state(state["count"])
        self._changes.set_state(state["told"])
        self._known = dict(state["known"])
        if self._sampler is not None:
            self._sampler.set_state(state["sampler"])
        if state["newest"] is not None and not self._samples:
            self._samples.append(Sample(*state["newest"]))

    def _sample(self, logs: Logs) -> None:
        if self._sampler is None:
            return
        if not self._started:
            self._start(self._sampler)
        sample = self._sampler.take(self._count, logs)
        sample = sample._replace(changes=self._changes.take())
        self._known.update(sample.measured)
        self._samples.append(sample)
        self._write(sample)
        if sample.findings:
            self._tell(sample)

    def _start(self, sampler: Sampler) -> None:
        """Looks at the model, which may not be built when `fit` begins."""
        self._started = True
        has_float8 = sampler.start()
        for message in unmeasured(self.model, has_float8):
            self._warn("unmeasured", message)

    def _tell(self, sample: Sample) -> None:
        told, more = sample.findings[:MAX_TOLD], sample.findings[MAX_TOLD:]
        if more:
            told = (*told, f"and {len(more)} more: see `findings`")
        message = "\n".join([f"Step {sample.step}:", *told])
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _write(self, sample: Sample) -> None:
        if self._log is not None:
            self._log.write(sample)

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, RuntimeWarning, stacklevel=2)
