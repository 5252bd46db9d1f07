"""Argument checks: the error names the argument and says what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection


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
    if not low <= value <= high:
        raise ValueError(
            f"`{name}` must be from {low} to {high}. Received: {value!r}"
        )
    return float(value)


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
