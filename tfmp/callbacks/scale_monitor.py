"""`ScaleMonitor`: every scale of a training, where it can be seen."""

from __future__ import annotations

import collections
import os
import pathlib
import time
import warnings
from typing import Any

import keras

from tfmp import checks
from tfmp.callbacks.sample_log import FAULTS, Sample, SampleLog
from tfmp.callbacks.state_reader import StateReader, steps_taken

MAX_SAMPLES = 4096


class ScaleMonitor(keras.callbacks.Callback):
    """Records the loss scale, skipped steps, and every FP8 amax and scale.

    A sample is taken when the step count passes a multiple of `every`, and at
    the end of each epoch, by one read of the device.  It holds

    | name                        | what                             | unit  |
    |-----------------------------|----------------------------------|-------|
    | `loss_scale`                | factor on the loss, next step    |       |
    | `skipped_steps`             | steps skipped since the start    | steps |
    | `<layer path>/<role>/amax`  | largest magnitude to assume      |       |
    | `<layer path>/<role>/scale` | factor before the cast to FP8    |       |

        scale = 2**(floor(log2(max / amax)) - margin)

    with a role of `"inputs"`, `"kernel"` and `"grads"`.  Amax and scale of
    `grads` are those of the gradient of the *scaled* loss: the gradient's own
    amax is `amax / loss_scale`.  An amax of zero is not observed yet: the
    scale then comes from a prior.  There is no scale for a role under current
    scaling and for a frozen layer, where it depends on the tensor to come; no
    loss scale or count if the optimizer has none; nothing of a role that is
    not quantized.

    Where it goes:

    - `History.history`: the values at the end of each epoch.  They are not in
      `logs`, so that the progress bar stays as it is.
    - `samples`: the newest 4096, in memory.
    - `log_dir/scales.jsonl`: a line for each sample, with the same names;
      null stands for what is not finite.  Lines are appended, whole.
    - `log_dir/scales/`: the same as TensorBoard scalars, by step.

    Steps go on from one `fit` to the next, and from where a restored
    optimizer stands.  Under `steps_per_execution` Keras calls back, and a
    sample can be taken, once an execution; if the length of the dataset is
    unknown, its last execution counts in full.  A sample that cannot be
    written is warned of once, and training goes on.

    Args:
        log_dir: a local folder, or None for no files.
        every: steps between two samples, 1 or more.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `every` is less than 1; by `fit`, before it trains, if
            `log_dir` cannot be written to.

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
    >>> history.history["net/head/inputs/scale"]
    [256.0]
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] | None = None, every: int = 16
    ) -> None:
        super().__init__()
        self.log_dir = (
            None if log_dir is None else checks.path("log_dir", log_dir)
        )
        self.every = checks.integer("every", every, 1)
        self._samples: collections.deque[Sample] = collections.deque(
            maxlen=MAX_SAMPLES
        )
        self._trained: keras.Model | None = None
        self._reader: StateReader | None = None
        self._log: SampleLog | None = None
        self._step = 0
        self._epoch = 0
        self._epoch_start = 0
        self._warned: set[str] = set()

    @property
    def samples(self) -> list[dict[str, float]]:
        """The newest samples: `step`, `epoch`, `time` and the values by name.

        `epoch` counts from 0, `time` is in seconds since 1970.  They start
        anew when the monitor is given another model to train.
        """
        return [sample.record() for sample in self._samples]

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the files."""
        if self._trained is not self.model:
            self._trained, self._step = self.model, 0
            self._samples.clear()
        self._reader = None
        self._warned.discard("write")
        self._close()
        self._log = _open(self.log_dir)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts counting where the last epoch, or the optimizer, is."""
        optimizer = getattr(self.model, "optimizer", None)
        self._step = max(self._step, steps_taken(optimizer))
        self._epoch, self._epoch_start = epoch, self._step
        self._first_batch: int | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Notes where the epoch begins: not at 0 if it was resumed within."""
        if self._first_batch is None:
            self._first_batch = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes a sample if a multiple of `every` was passed."""
        of_epoch = (self.params or {}).get("steps") or batch + 1
        before = self._step
        done = min(batch + 1, of_epoch) - (self._first_batch or 0)
        self._step = self._epoch_start + done
        if before // self.every < self._step // self.every:
            self._sample()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Takes a sample unless the last step did, and tells History."""
        if self._step == self._epoch_start:
            return
        if not self._samples or self._samples[-1].step != self._step:
            self._sample()
        history = getattr(self.model, "history", None)
        if isinstance(history, keras.callbacks.History) and self._samples:
            for name, value in self._samples[-1].items().items():
                history.history.setdefault(name, []).append(value)

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the files."""
        self._close()

    def _sample(self) -> None:
        if self._reader is None:
            self._reader = StateReader(self.model)
            self._warn_without_float8()
        sample = Sample(
            self._step,
            self._epoch,
            time.time(),
            self._reader.names,
            self._reader.read(),
        )
        self._samples.append(sample)
        if self._log is not None:
            try:
                self._log.write(sample)
            except FAULTS as fault:
                self._warn_of(fault)

    def _close(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            try:
                log.close()
            except FAULTS as fault:
                self._warn_of(fault)

    def _warn_of(self, fault: Exception) -> None:
        self._warn(
            "write",
            f"ScaleMonitor could not write a sample to {str(self.log_dir)!r} "
            f"({fault}). Training goes on; further faults are not reported.",
        )

    def _warn_without_float8(self) -> None:
        if self._reader is not None and not self._reader.has_float8:
            self._warn(
                "float8",
                f"No layer of the model {self.model.name!r} runs in FP8: "
                "none is a tfmp layer with a recipe. Use tfmp.layers under "
                "the policy 'mixed_float8'. ScaleMonitor records the loss "
                "scale and skipped steps alone, if the optimizer has them.",
            )

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def _open(log_dir: pathlib.Path | None) -> SampleLog | None:
    try:
        return None if log_dir is None else SampleLog(log_dir)
    except FAULTS as fault:
        raise ValueError(
            "`log_dir` must be a folder that can be written to. "
            f"Received: {str(log_dir)!r} ({fault})"
        ) from fault
