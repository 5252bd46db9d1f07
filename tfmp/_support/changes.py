"""The record of one change of precision, and how it is said."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from tfmp._support import checks

KINDS = ("scheduled", "up", "down", "rollback")
MAX_NAMED = 4


@dataclasses.dataclass(frozen=True)
class Change:
    """One layer's change of precision, or one return to an earlier state.

    Attributes:
        step: training steps done before it.
        epoch: in which it was made, from 0.
        kind: `"scheduled"`, `"up"`, `"down"` or `"rollback"`.
        layer: its path; "" for a rollback, which is of the whole model.
        before: the policy before, in words; "" for a rollback.
        after: the policy from now on; "" for a rollback.
        reason: why, in words.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `kind` is another, or a number is negative.

    >>> names = "net/head", "mixed_float8", "mixed_bfloat16"
    >>> print(Change(64, 1, "up", *names, "30% of gradients underflow"))
    step 64: net/head up from mixed_float8 to mixed_bfloat16: 30% of gradients \
underflow
    """

    step: int
    epoch: int
    kind: str
    layer: str
    before: str
    after: str
    reason: str

    def __post_init__(self) -> None:
        checks.integer("step", self.step, 0)
        checks.integer("epoch", self.epoch, 0)
        checks.choice("kind", self.kind, KINDS)
        checks.fields(self, layer=str, before=str, after=str, reason=str)

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes as JSON-serialisable values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if self.kind == "rollback":
            return f"step {self.step}: rolled back: {self.reason}"
        way = "" if self.kind == "scheduled" else f" {self.kind}"
        return (
            f"step {self.step}: {self.layer}{way} from {self.before} to "
            f"{self.after}: {self.reason}"
        )


def merged(changes: Iterable[Change], named: int = MAX_NAMED) -> list[Change]:
    """Returns those alike but for the layer as one, with all their layers.

    Args:
        changes: in their order.
        named: layers to name, of more the number.
    """
    alike: dict[Change, list[str]] = {}
    for change in changes:
        key = dataclasses.replace(change, layer="")
        alike.setdefault(key, []).append(change.layer)
    return [
        dataclasses.replace(change, layer=_listed(layers, named))
        for change, layers in alike.items()
    ]


def sentences(changes: Iterable[Change]) -> list[str]:
    """Returns changes in words; those alike but for the layer in one.

    >>> same = ("mixed_float8", "float32", "the schedule says so")
    >>> both = [Change(8, 0, "scheduled", name, *same) for name in ("a", "b")]
    >>> sentences(both)
    ['step 8: a, b from mixed_float8 to float32: the schedule says so']
    """
    return [str(change) for change in merged(changes)]


def tell(changes: Sequence[Change]) -> None:
    """Says what was changed: trouble in a warning, all else in the log.

    The log is Python's, of the name "tfmp" and at level INFO.
    """
    said = sentences(changes)
    if any(change.kind in ("up", "rollback") for change in changes):
        warnings.warn("\n".join(said), RuntimeWarning, stacklevel=2)
    else:
        for sentence in said:
            logging.getLogger("tfmp").info(sentence)


def _listed(layers: Sequence[str], most: int) -> str:
    named, more = ", ".join(layers[:most]), len(layers) - most
    return f"{named} and {more} more" if more > 0 else named
