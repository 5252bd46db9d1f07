"""Numbers as arguments, where what is not known is NaN."""

from __future__ import annotations

import math
from typing import Any

from tfmp._support import checks


def real(name: str, value: Any) -> float:
    """Returns a number as a float; NaN and infinities are allowed.

    Raises:
        TypeError: if `value` is no number.
        ValueError: if it is an integer beyond every float.
    """
    if isinstance(value, float):
        return value
    return checks.number(name, value, -math.inf, math.inf)


def reals(record: Any, *names: str) -> None:
    """Checks that fields of a dataclass are numbers.

    Raises:
        TypeError, ValueError: as of `real`.
    """
    for name in names:
        real(name, getattr(record, name))
