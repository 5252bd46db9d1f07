"""What stands before a model's `train_function`, one before the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def standing(function: Any) -> Iterator[Any]:
    """Yields the objects that a call goes through, the first one first.

    Each is called by a method of its own, and calls what it has as `inner`.

    Args:
        function: a model's `train_function`, or one of these methods.
    """
    owner: Any = getattr(function, "__self__", None)
    while hasattr(owner, "inner"):
        yield owner
        owner = getattr(owner.inner, "__self__", None)
