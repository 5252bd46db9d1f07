"""A choice of precisions, and what is predicted of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfmp._support import checks
from tfmp.analysis.reals import reals

LIMITS = ("loss_increase", "time", "memory")


@dataclasses.dataclass(frozen=True)
class Point:
    """One choice of a precision for each layer.

    Attributes:
        name: what chose it, such as `"all mixed_bfloat16"`.
        choice: names of candidates by path of layer.
        loss_increase: predicted, in percent of the reference's loss.
        time: seconds of the layers' products in one training step.
        memory: bytes of operands that are kept for the backward pass.

    >>> Point("mine", {"net/a": "mixed_float8"}, 0.1, 1e-3, 64.0).time
    0.001
    """

    name: str
    choice: Mapping[str, str]
    loss_increase: float
    time: float
    memory: float

    def __post_init__(self) -> None:
        checks.fields(self, name=str, choice=Mapping)
        reals(self, *LIMITS)

    def keeps(self, budget: Mapping[str, float]) -> bool:
        """Whether it is within a budget; rounding of sums is forgiven.

        Args:
            budget: of `search`.

        Raises:
            TypeError, ValueError: if it is none.
        """
        budget = read_budget(budget)
        return all(
            getattr(self, name) <= most * (1 + 1e-9)
            for name, most in budget.items()
        )


def read_budget(budget: Any) -> dict[str, float]:
    """Returns a budget, once it is checked.

    Raises:
        TypeError, ValueError: if it is none.
    """
    said = f"a dictionary of one or more of {LIMITS} to the most of it"
    checks.instance("budget", budget, Mapping, said)
    if not budget:
        raise ValueError(f"`budget` must be {said}. Received: {budget!r}")
    for name, most in budget.items():
        checks.choice("budget", name, LIMITS)
        checks.number(f"budget[{name!r}]", most, 0.0, float("inf"))
    return {name: float(most) for name, most in budget.items()}


def aim(budget: Mapping[str, float]) -> str:
    """Returns what is to be least: time, or if that has a bound, the loss."""
    return "time" if "loss_increase" in budget else "loss_increase"
