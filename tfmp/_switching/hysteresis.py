"""When a layer goes up a precision, and when it may come down again.

Plain numbers in, a word out; no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from tfmp._support import advice, checks

UP, DOWN, STAY = "up", "down", "stay"
STATISTICS = ("underflow_share", "saturation_share", "sqnr")


@dataclasses.dataclass(frozen=True)
class PrecisionBounds:
    """What a tensor may lose in a format.

        outside = underflow_share > b.underflow_share
               or saturation_share > b.saturation_share
               or sqnr < b.sqnr

    What was not measured, NaN, is inside: a tensor of zeros loses nothing.

    Args:
        underflow_share: of the non-zero values, flushed to zero; 0 to 1.
        saturation_share: of all values, clipped; 0 to 1.
        sqnr: in dB.  Rounding alone leaves 31 in E4M3, 25 in E5M2.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.

    >>> PrecisionBounds().outside({"underflow_share": 0.4})
    'underflow_share'
    """

    underflow_share: float = 0.25
    saturation_share: float = 0.05
    sqnr: float = 10.0

    def __post_init__(self) -> None:
        checks.number("underflow_share", self.underflow_share, 0.0, 1.0)
        checks.number("saturation_share", self.saturation_share, 0.0, 1.0)
        checks.number("sqnr", self.sqnr, 0.0, 100.0)

    def outside(self, values: Mapping[str, float]) -> str:
        """Returns the statistic that is out of bounds, "" if none is.

        Args:
            values: those of one tensor, by name.
        """
        said = "a dictionary of numbers"
        checks.instance("values", values, Mapping, said)
        for name in STATISTICS:
            checks.instance("values", values.get(name, 0.0), float | int, said)
        for name in STATISTICS[:2]:
            if values.get(name, 0.0) > getattr(self, name):
                return name
        return "sqnr" if values.get("sqnr", math.inf) < self.sqnr else ""


UP_BOUNDS = PrecisionBounds()
DOWN_BOUNDS = PrecisionBounds(0.05, 0.01, 20.0)


@dataclasses.dataclass(frozen=True)
class PrecisionRule:
    """When a layer changes its precision, in observations and changes.

        up      after `patience` observations in a row out of `up`
        down    after quiet * 2**max(0, ups - 1) in a row within `down`

    where `ups` is how often the layer went up already, so that each fall-back
    doubles the wait.  In all it changes `max_changes` times at most, and comes
    down only if it could still go up again.

    Args:
        up: bounds of the precision that a layer has; by default 0.25, 0.05
            and 10 dB.
        down: bounds of the one below, tighter than `up`; by default 0.05,
            0.01 and 20 dB.
        patience: observations out of bounds, 1 or more.
        quiet: observations within bounds, 1 or more.
        max_changes: of one layer, 0 or more.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of its range, or `down` is looser than
            `up`.

    >>> PrecisionRule(up=PrecisionBounds(sqnr=12.0), quiet=8).quiet
    8
    """

    up: PrecisionBounds = UP_BOUNDS
    down: PrecisionBounds = DOWN_BOUNDS
    patience: int = 2
    quiet: int = 16
    max_changes: int = 6

    def __post_init__(self) -> None:
        said = "PrecisionBounds"
        checks.instance("up", self.up, PrecisionBounds, said)
        checks.instance("down", self.down, PrecisionBounds, said)
        checks.integer("patience", self.patience, 1)
        checks.integer("quiet", self.quiet, 1)
        checks.integer("max_changes", self.max_changes, 0)
        looser = (
            self.down.underflow_share > self.up.underflow_share
            or self.down.saturation_share > self.up.saturation_share
            or self.down.sqnr < self.up.sqnr
        )
        if looser:
            raise ValueError(
                "`down` must not be looser than `up`, or a layer would go up "
                f"and down again. Received: down={self.down}, up={self.up}"
            )


@dataclasses.dataclass
class Rung:
    """Where a layer stands on the ladder of precisions, and since when.

    Attributes:
        at: its place, 0 for the lowest precision.
        lowest: the lowest place that it can have.
        top: the highest.
    """

    at: int
    lowest: int
    top: int
    ups: int = 0
    changes: int = 0
    bad: int = 0
    calm: int = 0

    def wait(self, rule: PrecisionRule) -> int:
        """Returns how many calm observations it takes to come down."""
        found: int = rule.quiet * 2 ** max(0, self.ups - 1)
        return found

    def can_go_up(self, rule: PrecisionRule) -> bool:
        """Whether there is a precision above, and a change left."""
        return self.at < self.top and self.changes < rule.max_changes

    def look(self, rule: PrecisionRule, trouble: bool, calm: bool) -> str:
        """Takes in one observation and says what is due.

        Args:
            rule: that holds.
            trouble: whether the layer is out of `rule.up` where it stands.
            calm: whether it would be within `rule.down` one place below.

        Returns:
            `UP`, `DOWN` or `STAY`.
        """
        self.bad = self.bad + 1 if trouble else 0
        self.calm = self.calm + 1 if calm and not trouble else 0
        if self.bad >= rule.patience and self.can_go_up(rule):
            return UP
        both_ways = self.changes + 2 <= rule.max_changes
        may = self.at > self.lowest and both_ways
        return DOWN if may and self.calm >= self.wait(rule) else STAY

    def stand(self, at: int) -> None:
        """Takes a place; if it is another one, all is counted anew."""
        if at != self.at:
            self.ups += at > self.at
            self.changes += 1
            self.at, self.bad, self.calm = at, 0, 0


def trouble(
    where: str, bounds: PrecisionBounds, values: Mapping[str, float]
) -> str:
    """Says in words what of a tensor is out of bounds, "" if nothing is.

    Args:
        where: `<layer path>/<role>`.
        bounds: that hold.
        values: statistics by name.

    >>> low = {"sqnr": 4.2}
    >>> trouble("net/head/grads", PrecisionBounds(), low)
    'the SQNR of gradients is 4.2 dB, less than 10'
    """
    name, role = bounds.outside(values), where.rpartition("/")[2]
    tensor = advice.NAMES.get(role, role)
    if not name:
        return ""
    value, bound = values[name], getattr(bounds, name)
    if name == "sqnr":
        return f"the SQNR of {tensor} is {value:.1f} dB, less than {bound:g}"
    said = "underflow to zero" if name == "underflow_share" else "are clipped"
    return f"{value:.1%} of {tensor} {said}, more than {bound:.1%}"
