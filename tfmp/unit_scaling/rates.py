"""The learning rate of each variable, which layers note and optimizers use."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras


class Rate(NamedTuple):
    """What multiplies the optimizer's learning rate.

    Attributes:
        factor: that of the variable's own shape.
        by_depth: whether it is of a layer that residual branches are made of.
    """

    factor: float = 1.0
    by_depth: bool = False


def unit_normal() -> keras.initializers.Initializer:
    """Returns what weights begin as: normal, with a standard deviation of 1."""
    return keras.initializers.RandomNormal(stddev=1.0)


def note(variable: Any, rate: Rate) -> None:
    """Notes the rate of a variable; None has none."""
    if variable is not None:
        variable.unit_scaling_rate = rate


def of(variable: Any) -> Rate | None:
    """Returns the rate that was noted, if one was."""
    found: Rate | None = getattr(variable, "unit_scaling_rate", None)
    return found
