"""What a callback returns as its state, checked before a backup holds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

ALLOWED = (
    "a dictionary that JSON gives back equal: texts as keys, and texts, "
    "numbers, True, False, None, lists and such dictionaries as values"
)


def takes(method: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a method can be called with these arguments."""
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # one that is not of Python says nothing
        return True
    return True


def of(callback: Any) -> dict[str, Any]:
    """Returns what `callback.get_state()` does.

    Raises:
        ValueError: if that fails, or is not what JSON gives back equal.
    """
    name = f"`{type(callback).__name__}.get_state()`"
    try:
        state: dict[str, Any] = callback.get_state()
    except Exception as error:  # a callback raises what it happens on
        raise ValueError(
            f"{name} must return {ALLOWED}, from the beginning of `fit` on. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
    fault = _fault(state) if isinstance(state, dict) else repr(state)
    if fault:
        raise ValueError(f"{name} must return {ALLOWED}. Received: {fault}")
    return state


def _fault(value: Any, place: str = "") -> str:
    """Returns the first part that JSON gives back as another, and where."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                return f"the key {key!r}{place}"
            if fault := _fault(each, f" at {key!r}{place}"):
                return fault
        return ""
    if type(value) is list:
        faults = (_fault(each, f" in a list{place}") for each in value)
        return next(filter(None, faults), "")
    if isinstance(value, np.generic):
        value = value.item()
    is_plain = value is None or isinstance(value, bool | int | float | str)
    return "" if is_plain else f"{value!r}{place}"
