"""Plain values out of a text that anybody may have written: JSON and YAML.

Whatever the text holds, the answer is a value of a bounded size or a
`ValueError` of a few lines.  A few hundred bytes of YAML can name 10**9 values,
each alias standing for a list of aliases, and Python's own parsers give up on
deep nesting with a `RecursionError`.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

MOST_VALUES, DEEPEST = 100_000, 50
LONGEST = 300  # characters of what a parser or a check says


def from_json(text: str | bytes) -> Any:
    """Returns what a JSON text holds.

    Raises:
        ValueError: if it is none, or too large or too deep.

    >>> from_json("[" * 10**5)
    Traceback (most recent call last):
    ValueError: it must be nested 50 deep at most
    """
    try:
        return _limited(json.loads(text))
    except RecursionError as error:
        raise ValueError(_too_deep()) from error


def from_yaml(text: str) -> Any:
    """Returns what a YAML text holds.

    Raises:
        ModuleNotFoundError: if PyYAML is missing.
        ValueError: if it is none, or too large or too deep.
    """
    try:
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`path` is a YAML file, which needs PyYAML: pip install pyyaml. "
            "A .json file needs nothing."
        ) from error
    try:
        return _limited(yaml.safe_load(text))
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def shortened(said: object) -> str:
    """Returns a text of at most `LONGEST` characters.

    >>> len(shortened("x" * 10**6))
    300
    """
    text = str(said)
    if len(text) <= LONGEST:
        return text
    half = (LONGEST - 5) // 2
    return f"{text[:half]} ... {text[-half:]}".ljust(LONGEST)[:LONGEST]


def _limited(value: Any) -> Any:
    """Returns a value with all aliases written out, if that is not too much."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError(_too_deep())
        if seen > MOST_VALUES:
            raise ValueError(f"it must hold {MOST_VALUES} values at most")
        if isinstance(each, dict):
            waiting += [(x, depth + 1) for x in (*each, *each.values())]
        elif isinstance(each, (list, tuple, set)):
            waiting += [(x, depth + 1) for x in each]
    return value


def _too_deep() -> str:
    return f"it must be nested {DEEPEST} deep at most"
