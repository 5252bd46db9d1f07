"""Argument checks: the error names the argument and says what is allowed."""

from __future__ import annotations

import math
import operator
import os
import pathlib
from collections.abc import Collection
from typing import Any


def choice(name: str, value: object, allowed: Collection[str]) -> str:
    """Returns `value` if it is one of the `allowed` strings.

    Raises:
        TypeError: if `value` is not a string.
        ValueError: if `value` is not allowed.
    """
    if not isinstance(value, str):
        raise TypeError(
            f"`{name}` must be a string out of {tuple(allowed)}. "
            f"Received: {value!r}"
        )
    if value not in allowed:
        raise ValueError(
            f"`{name}` must be one of {tuple(allowed)}. Received: {value!r}"
        )
    return value


def integer(name: str, value: object, low: int, high: float = math.inf) -> int:
    """Returns `value` if it is an integer from `low` to `high`.

    Raises:
        TypeError: if `value` is not an integer.
        ValueError: if `value` is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer. Received: {value!r}")
    if not low <= value <= high:
        limits = (
            f"from {low} to {high}" if high < math.inf else f"{low} or more"
        )
        raise ValueError(f"`{name}` must be {limits}. Received: {value!r}")
    return value


def number(name: str, value: object, low: float, high: float) -> float:
    """Returns `value` as a float if it is a number from `low` to `high`.

    Raises:
        TypeError: if `value` is not a number.
        ValueError: if `value` is NaN or out of range.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number. Received: {value!r}")
    try:
        result = float(value)
    except OverflowError:  # an integer beyond every float
        result = math.nan
    if not low <= result <= high:
        raise ValueError(
            f"`{name}` must be from {low} to {high}. Received: {value!r}"
        )
    return result


def instance(name: str, value: Any, kind: Any, said: str) -> Any:
    """Returns `value` if it is an instance of a class.

    Args:
        name: of the argument.
        value: what was given.
        kind: the class, or a union of classes.
        said: the class in words, with an article.

    Raises:
        TypeError: if `value` is something else.
    """
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {said}. Received: {value!r}")
    return value


def sequence(name: str, value: Any, kind: Any, said: str) -> list[Any]:
    """Returns the items of a list or tuple, all of one class.

    Args:
        name: of the argument.
        value: what was given.
        kind: the class of an item, or a union of classes.
        said: the whole in words, with an article.

    Raises:
        TypeError: if `value` or an item is something else.
    """
    items = instance(name, value, list | tuple, said)
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"`{name}` must be {said}. Received: {value!r}")
    return list(items)


def shape(name: str, value: Any, least: int = 1) -> tuple[int | None, ...]:
    """Returns a shape as a tuple; None is an unknown length.

    Args:
        name: of the argument.
        value: a tuple, a list or a `tf.TensorShape`.
        least: how many axes it must have.

    Raises:
        TypeError: if `value` is none of these, or has other lengths than
            integers and None.
        ValueError: if a length is negative, or there are too few.
    """
    said = f"a tuple of {least} or more lengths"
    if getattr(value, "rank", None) is not None and hasattr(value, "as_list"):
        value = value.as_list()
    items = instance(name, value, tuple | list, said)
    try:
        lengths = [n if n is None else operator.index(n) for n in items]
    except TypeError as error:
        raise TypeError(
            f"`{name}` must be {said}. Received: {value!r}"
        ) from error
    if len(lengths) < least or any(n is not None and n < 0 for n in lengths):
        raise ValueError(f"`{name}` must be {said}. Received: {value!r}")
    return tuple(lengths)


def fields(record: object, **kinds: Any) -> None:
    """Checks the types of a dataclass's fields.

    Args:
        record: the value.
        **kinds: by name of a field a type, a union of types, or None.

    Raises:
        TypeError: if a field is of another type.
    """
    for name, kind in kinds.items():
        said = f"of type {getattr(kind, '__name__', kind)}"
        instance(name, getattr(record, name), kind, said)


def path(name: str, value: object) -> pathlib.Path:
    """Returns a path, of a string or of what stands for a path.

    Raises:
        TypeError: if `value` is neither.
        ValueError: if no file can have such a name.
    """
    text: Any = os.fspath(value) if isinstance(value, os.PathLike) else value
    said = "a path, as a string or path object"
    if "://" in instance(name, text, str, said):
        raise ValueError(f"`{name}` must be a local path. Received: {value!r}")
    found = pathlib.Path(text)
    try:
        possible = bool(text) and b"\0" not in os.fsencode(found)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"`{name}` must be {said}. Received: {value!r}")
    return found


def boolean(name: str, value: object) -> bool:
    """Returns `value` if it is True or False.

    Raises:
        TypeError: if it is anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False. Received: {value!r}")
    return value


def names(
    name: str, value: object, allowed: tuple[str, ...]
) -> tuple[str, ...]:
    """Returns the allowed names that a tuple or list holds, in fixed order.

    Raises:
        TypeError: if `value` is not a tuple or list of strings.
        ValueError: if one of them is not allowed.
    """
    if not isinstance(value, (tuple, list)):
        raise TypeError(
            f"`{name}` must be a tuple of names out of {allowed}. "
            f"Received: {value!r}"
        )
    for item in value:
        choice(name, item, allowed)
    return tuple(item for item in allowed if item in value)
