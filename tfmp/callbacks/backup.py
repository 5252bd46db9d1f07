"""`BackupAndRestore`: a killed run goes on, bit for bit."""

from __future__ import annotations

import contextlib
import copy
import os
import pathlib
import warnings
from typing import Any

import keras
import numpy as np

from tfmp import checkpoints
from tfmp._keras import fit_data, frames, replicas
from tfmp._keras.callback_states import Logs
from tfmp._support import checks
from tfmp._switching.notes import precision_of, put_in_force
from tfmp.callbacks import backup_checks, backup_notes, callback_states


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """Backs up a `fit`, and goes on from there when it is run again.

    In place of `keras.callbacks.BackupAndRestore`, with the same arguments.
    A run that is killed at any moment, and started again with the same
    program, ends with the same weights, scales, histories, loss scale,
    optimizer state, metrics and `History`, bit for bit, as one that was not:

    - A backup is one file, written beside its place and renamed: there is
      always a whole one.  A SHA-256 digest notices changed bytes; the
      previous backup is then used if `double_checkpoint` keeps one.
    - It holds the seeds of random layers and the metrics too, and which
      layers were changed to which precision: they are changed again first.
    - A backup within an epoch is gone on from there: the batches that were
      trained are drawn, and not trained again.  Keras starts the epoch over.
    - `fit` returns the `History` of all epochs.  Keras': of those since.

    The data must come in the same order again.  A fixed order does, and so
    does `shuffle` of `fit` or of a `tf.data.Dataset` if all seeds are set,
    `keras.utils.set_random_seed`: epochs that are skipped are begun, so that
    shuffling goes on too.  Data that go on from epoch to epoch
    (`steps_per_epoch`) are read again from the first batch.  Not so: a Python
    generator, and parallel reading with `deterministic=False`.  Not saved is
    what replicas of a strategy hold apart: moving averages of Keras'
    `BatchNormalization` become those of the first, and metrics that were cut
    off within an epoch may differ in their last bits.

    Under `MultiWorkerMirroredStrategy` every worker has this callback, with
    the same folder, which all of them see.

    Put it last in the list of callbacks: what the others change at the end of
    an epoch, or as one begins, is then in the backup, and what they know.
    Those of tfmp go on where they were, and of Keras `EarlyStopping`,
    `ReduceLROnPlateau`, `ModelCheckpoint`, `SwapEMAWeights` and `TensorBoard`;
    of your own, those with a method `get_state()`, which returns a dictionary
    that JSON gives back equal, and `set_state(state)`, which takes it back.
    One that cannot, as a state of an older version, starts over, and a warning
    names it.  What a callback knew and a backup does not hold, as the best
    weights of `EarlyStopping`, is said in a warning when a training goes on.

    Args:
        backup_dir: a local folder for this run alone.
        save_freq: `"epoch"`, or after how many batches: an integer from 1.
            Under `steps_per_execution`, at the end of an execution.
        double_checkpoint: if True, the backup before the last is kept too.
        delete_checkpoint: if True, `backup_dir` is deleted when `fit` ends.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `save_freq` is neither of these, or `backup_dir` empty;
            by `fit`, before it trains, if `backup_dir` cannot be written to,
            if there is a backup and it is broken, of another model or Keras'
            own, if another optimizer is not built, if workers have backups of
            other batches, or if `get_state()` of a callback fails or returns
            what JSON does not give back equal.

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x, y = keras.ops.ones([8, 4]), keras.ops.ones([8, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     callbacks = [BackupAndRestore(f"{folder}/backup", save_freq=2)]
    ...     history = model.fit(
    ...         x, y, 2, epochs=2, verbose=0, callbacks=callbacks
    ...     )
    >>> history.epoch
    [0, 1]
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        folder = backup_checks.checked_folder(backup_dir)
        backup_checks.check_frequency(save_freq)
        super().__init__(
            str(folder),
            save_freq,
            checks.boolean("double_checkpoint", double_checkpoint),
            checks.boolean("delete_checkpoint", delete_checkpoint),
        )
        self._latest = folder / "latest.weights.h5"
        self._previous = folder / "previous.weights.h5"
        self._forget()

    def _forget(self) -> None:
        """Forgets what was of the last `fit`."""
        self._first_epoch: int | None = None
        self._resumed: tuple[pathlib.Path, dict[str, Any]] | None = None
        self._callbacks: list[Any] = []
        self._fresh: dict[str, dict[str, Any]] = {}
        self._lost = callback_states.Lost()
        self._epochs_before: list[int] = []
        self._logs: dict[str, Any] = {}
        self._due = False
        self._batches_seen_since_last_saving = self._last_batch_seen = 0

    def on_train_begin(self, logs: Logs = None) -> None:
        """Restores the newest backup that is whole, if there is one."""
        self._forget()
        backup_checks.check_optimizers(self.model)
        backup_checks.check_writable(self._latest.parent)
        callbacks = frames.callbacks_beside()
        self._callbacks = callback_states.before(self, callbacks)
        fresh = callback_states.gather(self._callbacks)
        self._fresh = copy.deepcopy(fresh)
        self._lost = callback_states.Lost(
            each for each in callbacks if each is not self
        )
        fit_data.start_at(self.model, None)
        there = [p for p in (self._latest, self._previous) if p.exists()]
        backup_checks.check_workers(self.model, there)
        if not there:
            return
        data = fit_data.data_of_fit()
        if data is None:
            raise ValueError(
                "`BackupAndRestore` must be a callback of Keras' own `fit`. "
                f"Received: the model {self.model.name!r}, which is not"
            )
        fit_data.build_for(self.model, data)
        self._go_on(data, **self._restore(there))

    def _restore(self, there: list[pathlib.Path]) -> dict[str, Any]:
        """Loads the first file that can be, and returns its notes."""
        path, *others = there
        try:
            notes = backup_notes.checked(checkpoints.read_notes(path), path)
            put_in_force(self.model, notes.pop("precision", None))
            checkpoints.load_weights(self.model, path)
        except ValueError as fault:
            if not others:
                raise
            warnings.warn(
                "The last backup cannot be used, so that training goes on "
                f"from the one before. {fault}",
                RuntimeWarning,
                stacklevel=2,
            )
            return self._restore(others)
        known = self._give_back(notes.pop("callbacks", {}))
        self._lost.tell(notes.pop("lost", {}))
        self._resumed = (path, known) if notes["batch"] else None
        return notes

    def _give_back(self, known: dict[str, Any]) -> dict[str, Any]:
        """Has callbacks go on, and returns what they have taken."""
        return callback_states.give_back(self._callbacks, known, self._fresh)

    def _go_on(
        self,
        data: Any,
        first_epoch: int,
        epoch: int,
        batch: int,
        epochs: list[int],
        history: dict[str, list[Any]],
        stopped: bool = False,
    ) -> None:
        """Brings data and `History` to where the backup was made.

        If a callback had ended the training there, it ends: Keras would train
        an epoch more.
        """
        last = (self.params or {}).get("epochs") or epoch
        fit_data.start_at(self.model, max(epoch, last) if stopped else epoch)
        fit_data.skip_data(data, epoch - first_epoch, batch)
        self._first_epoch, self._epochs_before = first_epoch, epochs
        self._last_batch_seen = max(batch - 1, 0)
        if self._history is not None:
            self._history.history = history

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Restores once more within an epoch.

        Keras has reset the metrics meanwhile, and other callbacks may have
        begun the epoch for the second time.
        """
        self._current_epoch = epoch
        if self._first_epoch is None:
            self._first_epoch = epoch
        if self._resumed is not None:
            path, known = self._resumed
            checkpoints.load_weights(self.model, path)
            self._give_back(known)
            self._resumed = None
            metrics = self.model.get_metrics_result()
            arrays = {n: np.asarray(m) for n, m in metrics.items()}
            self._logs = {
                n: a if a.ndim else float(a) for n, a in arrays.items()
            }

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Saves, if it is time; after an epoch's last batch, as it ends."""
        self._logs = {}
        if self._should_save_on_batch(batch):
            steps = (self.params or {}).get("steps")
            self._due = steps is not None and batch + 1 >= steps
            if not self._due:
                self._save(self._current_epoch, batch + 1, *self._past())

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Saves, unless that is done by batches."""
        if self._logs and logs is not None:  # all batches had been trained
            of_validation = dict(logs)
            logs.clear()
            logs.update({**self._logs, **of_validation})
        self._last_batch_seen, self._logs = 0, {}
        self._current_epoch = epoch + 1  # as Keras counts
        if self.save_freq == "epoch" or self._due:
            self._due = False
            epochs, history = self._past()
            if epoch not in epochs:  # this callback comes before `History`
                epochs = [*epochs, epoch]
                for name, value in (logs or {}).items():
                    history[name] = [*history.get(name, []), value]
            self._save(epoch + 1, 0, epochs, history)

    def on_train_end(self, logs: Logs = None) -> None:
        """Completes `History`, and deletes the backups if asked to."""
        if self._history is not None:
            self._history.epoch[:0] = self._epochs_before
        fit_data.start_at(self.model, None)
        replicas.wait_for_workers(self.model)  # until all have saved
        with contextlib.suppress(FileNotFoundError):  # another deletes it too
            super().on_train_end(logs)
        replicas.wait_for_workers(self.model)  # until it is deleted

    @property
    def _history(self) -> keras.callbacks.History | None:
        history = getattr(self.model, "history", None)
        is_one = isinstance(history, keras.callbacks.History)
        return history if is_one else None

    def _past(self) -> tuple[list[int], dict[str, list[Any]]]:
        """Returns what `History` holds of the epochs that are over."""
        if self._history is None:
            return self._epochs_before, {}
        epochs = [*self._epochs_before, *self._history.epoch]
        return epochs, dict(self._history.history)

    def _save(
        self,
        epoch: int,
        batch: int,
        epochs: list[int],
        history: dict[str, list[Any]],
    ) -> None:
        if self.double_checkpoint:
            # Another worker may have done it, or not have saved yet.
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._latest, self._previous)
            replicas.wait_for_workers(self.model)
        notes = {
            "first_epoch": self._first_epoch,
            "epoch": epoch,
            "batch": batch,
            "epochs": epochs,
            "history": history,
            "precision": precision_of(self.model),
            "callbacks": callback_states.gather(self._callbacks),
            "lost": self._lost.words(),
            "stopped": batch == 0 and bool(self.model.stop_training),
        }
        checkpoints.save_weights(self.model, self._latest, notes)
