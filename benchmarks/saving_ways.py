"""A small FP8 training, and the ways in which it can save and go on.

For `kill_and_resume.py`, which kills it.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfmp
from tfmp import checkpoints
from tfmp.layers.float8_state import all_states

EPOCHS, STEPS, BATCH, EVERY = 4, 12, 8, 5


@keras.saving.register_keras_serializable("kill_and_resume")
class OverflowingLoss(keras.losses.Loss):
    """A mean square whose gradient is infinite where `y_true` exceeds 99."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the loss of each sample; it is finite."""
        y_true = tf.cast(y_true, tf.float32)

        @tf.custom_gradient
        def overflow(y: tf.Tensor) -> tuple:
            return tf.identity(y), lambda dy: tf.where(y_true > 99, np.inf, dy)

        y_pred = overflow(tf.cast(y_pred, tf.float32))
        return tf.reduce_mean(tf.square(tf.tanh(y_true) - y_pred), axis=-1)


def make_model() -> keras.Model:
    """Builds and compiles the network, and builds its optimizer."""
    model = keras.Sequential(
        [
            keras.Input([16]),
            tfmp.layers.Dense(16, "relu", dtype="mixed_float8"),
            tfmp.layers.BatchNormalization(dtype="mixed_float8"),
            keras.layers.Dropout(0.2, seed=3),
            keras.layers.Dense(4),
        ]
    )
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)
    adam = keras.optimizers.Adam(rate)
    optimizer = tfmp.optimizers.LossScaleOptimizer(adam, growth_steps=5)
    model.compile(optimizer, OverflowingLoss(), metrics=["mae"])
    optimizer.build(model.trainable_variables)
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets; one of these makes a step overflow."""
    random_state = np.random.default_rng(0)
    x = random_state.normal(size=[STEPS * BATCH, 16]).astype("float32")
    y = x[:, :4].copy()
    y[BATCH * 7] = 100.0
    return x, y


class Started(keras.callbacks.Callback):
    """Calls back after the first step, from where on kills are timed."""

    def __init__(self, started: Callable[[], None]) -> None:
        super().__init__()
        self.started = started

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Calls, every time."""
        self.started()


class Run:
    """One process' part of a training.

    Args:
        folder: where this try saves.
        started: to call after a step.
    """

    def __init__(self, folder: str, started: Callable[[], None]) -> None:
        keras.utils.set_random_seed(0)
        self.folder, self.started = folder, started
        self.model = make_model()

    def fit(
        self, callback: Any, shuffle: bool = False, initial_epoch: int = 0
    ) -> dict[str, list[float]]:
        """Trains by `fit` and returns what `History` says."""
        callbacks = [Started(self.started), callback]
        x, y = data()
        fitted = self.model.fit(
            *(x, y, BATCH, EPOCHS),
            verbose=0,
            callbacks=callbacks,
            shuffle=shuffle,
            initial_epoch=initial_epoch,
        )
        return fitted.history

    def saved_files(self, pattern: str) -> Iterator[tuple[int, str]]:
        """Yields epoch and path of what is there, the newest first."""
        paths = pathlib.Path(self.folder).glob(pattern)
        for path in sorted(paths, reverse=True):
            yield int(path.name.split(".")[0]), str(path)

    def loop(self, first: int, save: Callable[[int], None]) -> dict:
        """Trains by a loop of its own, which saves every few steps."""
        model, optimizer = self.model, self.model.optimizer

        @tf.function
        def train(x: tf.Tensor, y: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                y_pred = model(x, training=True)
                loss = model.compute_loss(y=y, y_pred=y_pred)
                loss = optimizer.scale_loss(loss)
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        x, y = (np.split(array, STEPS) for array in data())
        for step in range(first, EPOCHS * STEPS):
            train(x[step % STEPS], y[step % STEPS])
            self.started()
            if (step + 1) % EVERY == 0:
                save(step + 1)
        return {}


def by_backup(
    run: Run, kind: Any, freq: Any, shuffle: bool = False, seeds: bool = False
) -> Any:
    """Keras' or tfmp's `BackupAndRestore`."""
    if seeds:
        checkpoints.keep_seeds(run.model)
    backup = kind(os.path.join(run.folder, "backup"), save_freq=freq)
    return run.fit(backup, shuffle)


def by_model_checkpoint(run: Run, suffix: str, seeds: bool) -> Any:
    """Goes on from the newest file of `ModelCheckpoint` that can be read."""
    if seeds:
        checkpoints.keep_seeds(run.model)
    epoch = 0
    for found, path in run.saved_files("*" + suffix):
        try:
            if suffix == ".keras":
                run.model = keras.models.load_model(path)
            if seeds:
                checkpoints.keep_seeds(run.model)
                checkpoints.load_weights(run.model, path)
        except Exception as error:
            print("passed over:", error)
            continue
        epoch = found
        break
    checkpoint = keras.callbacks.ModelCheckpoint(
        os.path.join(run.folder, "{epoch:03d}" + suffix),
        save_weights_only=suffix != ".keras",
    )
    return run.fit(checkpoint, initial_epoch=epoch)


def by_save_weights(run: Run) -> dict:
    """`tfmp.checkpoints` in a custom loop."""
    path = os.path.join(run.folder, "state.weights.h5")
    first = 0
    if os.path.exists(path):
        first = checkpoints.load_weights(run.model, path)["step"]
    return run.loop(
        first,
        lambda step: checkpoints.save_weights(run.model, path, {"step": step}),
    )


def by_tf_checkpoint(run: Run, everything: bool) -> dict:
    """`tf.train.CheckpointManager` in a custom loop."""
    step = tf.Variable(0)
    if everything:
        state = [v.value for v in checkpoints.variables(run.model)]
        saver = tf.train.Checkpoint(step=step, state=state)
    else:
        saver = tf.train.Checkpoint(
            step=step, model=run.model, optimizer=run.model.optimizer
        )
    manager = tf.train.CheckpointManager(saver, run.folder, max_to_keep=2)
    if manager.latest_checkpoint:
        saver.restore(manager.latest_checkpoint).assert_consumed()

    def save(done: int) -> None:
        step.assign(done)
        manager.save()

    return run.loop(int(step), save)


KERAS, TFMP = keras.callbacks.BackupAndRestore, tfmp.callbacks.BackupAndRestore
WAYS: dict[str, Callable[[Run], Any]] = {
    "tfmp BackupAndRestore, epoch": lambda run: by_backup(run, TFMP, "epoch"),
    "tfmp BackupAndRestore, batches": lambda run: by_backup(run, TFMP, EVERY),
    "tfmp BackupAndRestore, batches, shuffled": lambda run: by_backup(
        run, TFMP, EVERY, shuffle=True
    ),
    "tfmp save_weights, loop": by_save_weights,
    "tf.train.Checkpoint, variables(), loop": lambda run: by_tf_checkpoint(
        run, True
    ),
    "tf.train.Checkpoint, model, loop": lambda run: by_tf_checkpoint(
        run, False
    ),
    "Keras BackupAndRestore, epoch": lambda run: by_backup(run, KERAS, "epoch"),
    "Keras BackupAndRestore, epoch, keep_seeds": lambda run: by_backup(
        run, KERAS, "epoch", seeds=True
    ),
    "Keras BackupAndRestore, batches, keep_seeds": lambda run: by_backup(
        run, KERAS, EVERY, seeds=True
    ),
    "ModelCheckpoint .keras": lambda run: by_model_checkpoint(
        run, ".keras", False
    ),
    "ModelCheckpoint .keras, keep_seeds": lambda run: by_model_checkpoint(
        run, ".keras", True
    ),
    "ModelCheckpoint .weights.h5, keep_seeds": lambda run: by_model_checkpoint(
        run, ".weights.h5", True
    ),
}


def train(way: str, folder: str, started: Callable[[], None]) -> None:
    """Trains to the end, and writes what it ends with beside `folder`."""
    run = Run(folder, started)
    history = WAYS[way](run)
    # Metrics are compared as `History` has them.
    kept = [*run.model.variables, *run.model.optimizer.variables]
    states = {id(s.variable): s.amax for s in all_states(run.model)}
    values = {
        f"{i:02d} {v.path}": np.array(states.get(id(v), v).numpy())
        for i, v in enumerate(kept)
    }
    np.savez(folder + ".part.npz", **values)
    pathlib.Path(folder + ".json").write_text(json.dumps(history))
    os.replace(folder + ".part.npz", folder + ".npz")
