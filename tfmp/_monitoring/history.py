"""Values by name in Keras' `History`, which has a list of epochs of each."""

from __future__ import annotations

import math
from typing import Any


def append(history: dict[str, list[Any]], values: dict[str, float]) -> None:
    """Appends to the lists of all names, NaN to what is not known.

    A name that is new has NaN for the epochs before.
    """
    epochs = max((len(history.get(name, [])) for name in values), default=0)
    for name, value in values.items():
        own = history.setdefault(name, [])
        own += [math.nan] * (epochs - len(own))
        own.append(value)
