"""Which layers a conversion takes to FP8, and in words why not the others."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

import keras

from tfmp import cost_model, hardware
from tfmp._support import checks
from tfmp.conversion.layer_products import work_of
from tfmp.conversion.sizes import Sizes
from tfmp.conversion.tracing import Trace
from tfmp.cost_model import Target
from tfmp.policies.precision_map import PrecisionMap

Refusal = Callable[[keras.Layer, str, "keras.Layer | None"], "str | None"]
ENDS = ("first", "last")
NOT_CALLED = "the model does not call it"


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a conversion chooses among the layers that can be converted.

    Attributes:
        rule: in words, for the report.
        refusal: takes a layer, its path and the layer it is in; returns why
            it stays, or None.
        needs_shapes: whether `refusal` can only speak once a layer is built.
        patterns: of paths, that it chooses by.
    """

    rule: str
    refusal: Refusal
    needs_shapes: bool = False
    patterns: PrecisionMap = dataclasses.field(default_factory=PrecisionMap)


def choice(
    filter: Any, target: Any, sizes: Sizes, trace: Trace | None = None
) -> Choice:
    """Reads the arguments `filter` and `target` of `tfmp.convert`.

    Args:
        filter: as there.
        target: as there.
        sizes: what to assume for open lengths.
        trace: of the model, for the sizes of products.

    Raises:
        TypeError, ValueError: if one of them is not allowed.
    """
    if filter is None:
        here = target_of() if target is None else cost_model.get(target)
        return _automatic(here, sizes, trace) if here else _everything()
    if callable(filter):
        return _by_function(filter)
    name = filter if isinstance(filter, str) else None
    if name == "auto":
        target = target or target_of() or "h200"
        return _automatic(cost_model.get(target), sizes, trace)
    if target is not None:
        raise ValueError(
            "`target` must be None unless `filter` is 'auto' or None. "
            f"Received: target={target!r}, filter={filter!r}"
        )
    if name == "all":
        return _everything()
    return _by_patterns(filter)


def _everything() -> Choice:
    return Choice("every layer that can", lambda *layer: None)


def _by_function(function: Callable[[keras.Layer, str], bool]) -> Choice:
    def refusal(
        layer: keras.Layer, path: str, parent: keras.Layer | None
    ) -> str | None:
        """Returns why a layer is not chosen, None if it is."""
        taken = function(layer, path)
        if not isinstance(taken, (bool, int)):
            raise TypeError(
                "`filter` must return True or False. Received: "
                f"{taken!r} for layer '{path}'"
            )
        return None if taken else "not chosen by `filter`"

    return Choice("`filter`, a function", refusal)


def _by_patterns(patterns: Any) -> Choice:
    said = (
        "None, 'auto', 'all', a pattern of paths or a list of them, or a "
        "function"
    )
    given = [patterns] if isinstance(patterns, str) else patterns
    given = checks.sequence("filter", given, str, said)
    try:
        wanted = PrecisionMap(dict.fromkeys(given, "mixed_float8"), "float32")
    except ValueError as error:
        raise ValueError(
            f"`filter` must be {said} ({error}). Received: {patterns!r}"
        ) from error

    def refusal(
        layer: keras.Layer, path: str, parent: keras.Layer | None
    ) -> str | None:
        """Returns why a layer is not chosen, None if it is."""
        return None if wanted.match(path) else "no pattern of `filter` holds"

    rule = f"paths like {', '.join(wanted)}"
    return Choice(rule, refusal, patterns=wanted)


def _automatic(target: Target, sizes: Sizes, trace: Trace | None) -> Choice:
    def refusal(
        layer: keras.Layer, path: str, parent: keras.Layer | None
    ) -> str | None:
        """Returns why a layer is not chosen, None if it is."""
        work = work_of(layer, sizes, parent, trace)
        if not work.is_called:
            return NOT_CALLED
        if not (products := work.products):
            return "its shapes are not known"
        gain = min(cost_model.speedup(p, target) for p in products)
        if gain >= cost_model.BREAK_EVEN:
            return None
        reason = f"predicted speed on {target.name}: {gain:.2f} of bfloat16's"
        sides = [side for p in products for side in (p.m, p.k, p.n)]
        if padded := cost_model.unaligned(*sides):
            reason += f"; {', '.join(map(str, padded))} would be padded"
        return reason

    rule = (
        f"where it pays on {target.name}, at batch {sizes.batch_size} and "
        f"length {sizes.length} where the model leaves them open"
    )
    return Choice(rule, refusal, needs_shapes=True)


def target_of(machine: hardware.Hardware | None = None) -> Target | None:
    """Returns the target that a machine is, None if it has no FP8."""
    machine = hardware.detect() if machine is None else machine
    if "float8" not in machine.precisions:
        return None
    words = re.split(r"[\s-]+", machine.deciding[0].name.lower())
    words += ["".join(pair) for pair in itertools.pairwise(words)]
    known = [name for name in cost_model.TARGETS if name in words]
    return cost_model.TARGETS[known[0] if known else "h100"]
