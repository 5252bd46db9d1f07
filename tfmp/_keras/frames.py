"""Whose code runs just now, where Keras says it to nobody: read off frames.

This is the only module that asks Python for a frame; `policy_callers` reads
the one that it is given.  Each use is one that Keras 3.15
has no other way for:

- `Policy.name`: `Operation.from_config` and `quantize` reduce a policy to its
  name, and the same name must not go to both; see `policy_callers`.
- The callbacks of a `fit`: `CallbackList` hands each the model and the
  parameters, and none of the others; the model gets the `History` alone.
- The iterator of a `fit`: a local variable; see `fit_data`.
- The layer whose code calls another: the call context names only the layer
  that the user called; see `call_context.caller`.

`tests/test_quantizable.py`, `tests/test_backup_of_callbacks.py`,
`tests/test_backup.py` and `tests/test_kept_inputs.py` tell if one is lost.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import keras

T = TypeVar("T")


def caller(depth: int) -> types.FrameType | None:
    """Returns the frame that is `depth` calls above the one that asks."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame and frame.f_back
    return frame


def method_of(kind: type[T], but: object = None) -> T | None:
    """Returns the nearest object of a kind in one of whose methods we are.

    Args:
        kind: of the object.
        but: one that does not count.
    """
    for frame in _above():
        found = frame.f_locals.get("self")
        if isinstance(found, kind) and found is not but:
            return found
    return None


def local(name: str) -> Any:
    """Returns a local variable of the nearest function that has it, or None."""
    found = (f.f_locals[name] for f in _above() if name in f.f_locals)
    return next(found, None)


def callbacks_beside() -> list[keras.callbacks.Callback]:
    """Returns the list of callbacks that calls one now; [] if none does."""
    found = method_of(keras.callbacks.CallbackList)
    return [] if found is None else list(found.callbacks)


def _above() -> Iterator[types.FrameType]:
    """Yields the frames of who asks, and above."""
    frame = caller(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
