"""The learning rate of each variable, which layers note and optimizers use."""

from __future__ import annotations

from typing import Any

import keras


def unit_normal() -> keras.initializers.Initializer:
    """Returns what weights begin as: normal, with a standard deviation of 1."""
    return keras.initializers.RandomNormal(stddev=1.0)


def note(variable: Any, rate: float) -> None:
    """Notes the factor of a variable's learning rate."""
    variable.unit_scaling_rate = rate


def of(variable: Any) -> float:
    """Returns that factor, 1 where nothing was noted."""
    found: float = getattr(variable, "unit_scaling_rate", 1.0)
    return found
