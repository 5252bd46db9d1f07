"""What one of several workers does: its part of one training."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import signal
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfmp
from examples.harness import comparison, training
from examples.harness.example import Example
from examples.harness.settings import Settings

EVERY = 5  # steps between two backups


class Progress(keras.callbacks.Callback):
    """Notes the first step of a process, and kills it at another one, once.

    Args:
        folder: where it notes that it has.
        kill_at: kills this process before this step; 0 is never.
    """

    def __init__(self, folder: pathlib.Path, kill_at: int) -> None:
        super().__init__()
        self.done, self.kill_at = folder / "killed", kill_at
        self.first_step, self.first_step_at = -1, 0.0

    def get_state(self) -> dict[str, Any]:
        """Nothing: it is of this process."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Begins anew."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if self.kill_at and step == self.kill_at and not self.done.exists():
            self.done.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        if self.first_step < 0:
            self.first_step = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.first_step_at = self.first_step_at or time.time()


def train(example: Example, settings: Settings, kill_at: int = 0) -> None:
    """Trains as the worker that `TF_CONFIG` says, and writes what it holds.

    All workers read all data: each trains on its part of every batch.

    Args:
        example: what to train.
        settings: of the policies, the first.
        kill_at: kills the last worker before this step, once; 0 is never.
    """
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    place = json.loads(os.environ["TF_CONFIG"])
    index, workers = place["task"]["index"], len(place["cluster"]["worker"])
    keras.utils.set_random_seed(0)
    data = comparison.load(example, settings)  # after the strategy
    policy = settings.policies[0]
    chosen = training.planned(example, policy, 0, settings)
    batches = training.epoch_of(example, data, chosen)
    with strategy.scope():
        model = training.converted(example, policy, data)
        steps = chosen.epochs * len(batches)
        training.compile_for_fit(example, model, chosen, steps)
    folder = settings.output
    progress = Progress(folder, kill_at if index == workers - 1 else 0)
    backup = tfmp.callbacks.BackupAndRestore(folder / "backup", EVERY)
    validation = data.validation_batches(chosen.batch_size)
    history = model.fit(
        batches,
        epochs=chosen.epochs,
        verbose=2 if index == 0 else 0,
        callbacks=[progress, backup],
        shuffle=False,  # they are shuffled already
        validation_data=validation if example.metric.make else None,
    ).history
    found = {
        "first_step": progress.first_step,
        "first_step_at": progress.first_step_at,
        "history": history,
        **digests(strategy, model),
    }
    text = json.dumps(found, indent=1, default=float)
    (folder / f"worker-{index}.json").write_text(text + "\n")


def digests(strategy: Any, model: keras.Model) -> dict[str, str]:
    """Returns hashes of what the replicas of this worker hold."""
    states = [v for v in model.variables if "float8" in v.path]
    known = {id(v) for v in states}
    groups = {
        "weights": [v for v in model.variables if id(v) not in known],
        "float8": states,
        "optimizer": model.optimizer.variables,
    }
    return {name: _digest(strategy, group) for name, group in groups.items()}


def _digest(strategy: Any, variables: list[keras.Variable]) -> str:
    hashed = hashlib.sha256()
    for variable in variables:
        first, *others = (
            np.asarray(part).tobytes()
            for part in strategy.experimental_local_results(variable.value)
        )
        if any(each != first for each in others):
            raise RuntimeError(f"replicas differ in {variable.path}")
        hashed.update(first)
    return hashed.hexdigest()
