"""What `BackupAndRestore` is given, checked before the first step."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from tfmp import checkpoints
from tfmp._keras import replicas
from tfmp._support import checks, sealed_files
from tfmp.callbacks import backup_notes


def check_optimizers(model: keras.Model) -> None:
    """Refuses optimizers beside that of `compile` that are not built.

    What those train, as in a GAN, only the user knows.
    """
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    known = [model.optimizer, inner, *getattr(inner, "optimizers", [])]
    for name, value in vars(model).items():
        for each in [] if name.startswith("_self_") else _optimizers(value):
            if not each.built and each not in known:
                raise ValueError(
                    f"`model.{name}` must be built before `fit`, for a backup "
                    f"to restore it: call `build(variables)`. Received: {each}"
                )


def _optimizers(value: Any) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers that an attribute is, or has in a container."""
    held = list(value.values()) if isinstance(value, dict) else value
    every = held if isinstance(held, (list, tuple)) else [held]
    return [x for x in every if isinstance(x, keras.optimizers.Optimizer)]


def check_writable(folder: pathlib.Path) -> None:
    """Notices before the first epoch what would be noticed after it."""
    try:
        sealed_files.check_writable(folder)
    except OSError as error:
        raise ValueError(
            "`backup_dir` must be a folder that can be written to. "
            f"Received: {str(folder)!r} ({error})"
        ) from error


def checked_folder(folder: Any) -> pathlib.Path:
    """Returns the path; an empty one has Keras' class of error, and words."""
    if folder is None or (isinstance(folder, str) and not folder):
        raise ValueError(
            "`backup_dir` must be a path: Empty `backup_dir` argument passed. "
            f"Received: {folder!r}"
        )
    return checks.path("backup_dir", folder)


def check_frequency(frequency: Any) -> None:
    """Refuses with Keras' class of error, and its words."""
    whole = isinstance(frequency, int) and not isinstance(frequency, bool)
    by_epoch = isinstance(frequency, str) and frequency == "epoch"
    if not by_epoch and not (whole and frequency >= 1):
        raise ValueError(
            "`save_freq` must be 'epoch', or an integer of 1 or more: Invalid "
            f"value. Received: {frequency!r}"
        )


def check_workers(model: keras.Model, backups: Sequence[pathlib.Path]) -> None:
    """Refuses workers that would go on from different batches.

    Args:
        model: every worker comes here with its own.
        backups: what this one would go on from, the first that is whole.
    """
    strategy = model.distribute_strategy
    if not replicas.between_workers(strategy):
        return
    places = replicas.of_all_workers(strategy, _place(backups))
    if any(each != places[0] for each in places):
        raise ValueError(
            "`backup_dir` must hold the same backup for every worker: use a "
            "folder that all of them see. Received: backups of (epoch, batch) "
            f"{', '.join(map(str, map(tuple, places)))}, by worker; (0, 0) is "
            "none, (-1, -1) is broken"
        )


def _place(backups: Sequence[pathlib.Path]) -> list[int]:
    """Returns the epoch and the batch that the newest backup is of."""
    if not backups:
        return [0, 0]
    try:
        notes = checkpoints.read_notes(backups[0])
        notes = backup_notes.checked(notes, backups[0])
    except ValueError:  # which `fit` says as it loads it
        return [-1, -1]
    return [notes["epoch"], notes["batch"]]
