"""What a backup notes beside the weights, checked before anything changes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import keras

NUMBERS = ("first_epoch", "epoch", "batch")
SINCE = ("callbacks", "lost", "stopped")  # older backups lack them


def checked(notes: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Returns the notes of a backup.

    Args:
        notes: of a weights file.
        path: of that file.

    Raises:
        ValueError: if a backup has other notes.
    """
    if "batch" not in notes:
        raise ValueError(
            "`backup_dir` must be for backups of this callback alone. "
            f"Received: {str(path)!r}, which another callback has written"
        )
    wrong = [name for name, fits in _fit(notes).items() if not fits]
    if wrong:
        raise ValueError(
            "`backup_dir` must hold backups of this callback, but the notes "
            f"{wrong} of {str(path)!r} are not its own. "
            f"Received: {str(notes)[:200]}"
        )
    known = {*NUMBERS, "epochs", "history", "precision", *SINCE}
    return {name: value for name, value in notes.items() if name in known}


def _fit(notes: Mapping[str, Any]) -> dict[str, bool]:
    """Says of each note whether it is of the right kind."""
    found = {name: _is_count(notes.get(name)) for name in NUMBERS}
    epochs, history = notes.get("epochs"), notes.get("history")
    return found | {
        "epochs": isinstance(epochs, list) and all(map(_is_count, epochs)),
        "history": _is_table(history, list),
        "precision": _is_precision(notes.get("precision")),
        "callbacks": _is_table(notes.get("callbacks", {}), dict),
        "lost": _is_table(notes.get("lost", {}), str),
        "stopped": isinstance(notes.get("stopped", False), bool),
    }


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_table(value: object, kind: type) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, kind) for each in value.values()
    )


def _is_precision(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or set(value) != {"policies", "layers"}:
        return False
    try:
        known = [keras.dtype_policies.get(plain) for plain in value["policies"]]
        entries = [entry for entry in value["layers"] if entry is not None]
        return all(
            type(place) is int
            and 0 <= place < len(known)
            and isinstance(is_idle, bool)
            for place, is_idle in entries
        )
    except Exception:  # Keras raises what it happens on
        return False
