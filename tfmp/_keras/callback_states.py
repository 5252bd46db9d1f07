"""What callbacks of Keras keep to themselves, for a backup of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

# Of each class, what a training depends on that goes on; the rest follows.
KEPT: Mapping[str, tuple[str, ...]] = {
    "EarlyStopping": ("wait", "best", "best_epoch", "stopped_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    "SwapEMAWeights": ("_ema_weights_in_model",),
    "TensorBoard": ("_global_train_batch", "_global_test_batch"),
}
# What Keras hands a callback: metrics by name.
Logs = dict[str, Any] | None
SIMPLE = bool | int | float | str | None


def keeps(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback is one of Keras with something to keep."""
    return bool(_names(callback))


def get_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Returns what a callback of Keras knows between two steps."""
    found = {name: getattr(callback, name, None) for name in _names(callback)}
    return {name: _plain(value) for name, value in found.items()}


def set_state(
    callback: keras.callbacks.Callback, known: Mapping[str, Any]
) -> None:
    """Gives a callback of Keras back what `get_state` returned."""
    for name in _names(callback):
        if name in known:
            setattr(callback, name, known[name])


def lost(callback: keras.callbacks.Callback) -> str:
    """Says what a callback of Keras will do otherwise after a restart."""
    if isinstance(callback, keras.callbacks.EarlyStopping):
        if callback.restore_best_weights and callback.best_weights is not None:
            return (
                "the weights of its best epoch so far: if none is better, it "
                "restores those of the first epoch after the restart"
            )
    if isinstance(callback, keras.callbacks.CSVLogger):
        if not callback.append:
            return "the rows of its file so far: `append=True` keeps them"
    return ""


def is_of_keras(callback: keras.callbacks.Callback) -> bool:
    """Whether the class of a callback is one of Keras' own."""
    return type(callback).__module__.startswith("keras.")


def simple_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Returns what can be compared of a callback that nobody knows.

    Numbers, texts, bytes of arrays, and how long its containers are; not what
    Keras sets.
    """
    of_keras = vars(keras.callbacks.Callback()).keys()
    found: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if name in of_keras:
            continue
        if isinstance(value, SIMPLE):
            found[name] = value
        elif isinstance(value, list | dict | set):
            found[name] = len(value)
        elif isinstance(value, np.ndarray | np.generic):
            found[name] = np.asarray(value).tobytes()
    return found


def _names(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    for name, kept in KEPT.items():
        kind: Callable[..., Any] | None = getattr(keras.callbacks, name, None)
        if isinstance(kind, type) and isinstance(callback, kind):
            return kept
    return ()


def _plain(value: Any) -> Any:
    """Returns a number, as metrics are, as Python's own."""
    return value if isinstance(value, SIMPLE) else float(value)
