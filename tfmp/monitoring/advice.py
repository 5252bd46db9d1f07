"""What is wrong with a sample, and what to do about it, in words."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tfmp.layers.attention import PRODUCTS

PATIENCE = 2  # samples in a row
BEHIND_BY = -4  # bits that the scale is too small by
NAMES = {"inputs": "inputs", "kernel": "kernel values", "grads": "gradients"}
NARROW = (
    "the range of FP8 is too narrow for them: use "
    "tfmp.set_precision(model, {'%s': 'mixed_bfloat16'})"
)
BEHIND = (
    "the scale is behind, from larger values in its window: use a shorter "
    "amax_history_len, or tfmp.recipes.CurrentScaling"
)
CLIPPED = (
    "they grow faster than delayed scaling follows: raise the recipe's "
    "margin, or use tfmp.recipes.CurrentScaling"
)


class Finding(NamedTuple):
    """Something wrong that has lasted.

    Attributes:
        kind: what it is: a key of `RULES`.
        where: `<layer>/<role>`, or "" for the optimizer.
        message: a sentence, with what to do.
    """

    kind: str
    where: str
    message: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a statistic is wrong, and what to say then.

    Args:
        wrong: whether it is, by all values of the tensor.
        says: makes a sentence of layer, tensor and all values of the tensor.
    """

    wrong: Callable[[Mapping[str, float]], bool]
    says: Callable[[str, str, Mapping[str, float]], str]


def _cause(operator: str, lag: float) -> str:
    """Says whether the scale is at fault, or the format; and what helps.

    Attention's own products have the format of its layer.
    """
    if lag >= 1 or lag <= BEHIND_BY:
        return CLIPPED if lag >= 1 else BEHIND
    layer, _, name = operator.rpartition("/")
    return NARROW % (layer if name in PRODUCTS else operator)


def _underflow(layer: str, tensor: str, values: Mapping[str, float]) -> str:
    share = values["underflow_share"]
    why = _cause(layer, min(values.get("lag", 0.0), 0.0))
    return f"{layer}: {share:.0%} of {tensor} underflow to zero; {why}"


def _saturation(layer: str, tensor: str, values: Mapping[str, float]) -> str:
    share = values["saturation_share"]
    return f"{layer}: {share:.1%} of {tensor} are clipped; {CLIPPED}"


def _noise(layer: str, tensor: str, values: Mapping[str, float]) -> str:
    sqnr = values["sqnr"]
    why = _cause(layer, values.get("lag", 0.0))
    return f"{layer}: {sqnr:.0f} dB is all that is left of {tensor}; {why}"


def _is_clipped(values: Mapping[str, float]) -> bool:
    """Whether much is lost by it: a value just above the limit loses little."""
    clipped = values.get("saturation_share", 0) >= 0.01
    return clipped and values.get("sqnr", 0) < 20


# Rounding alone leaves 31 dB in E4M3 and 25 dB in E5M2.  The first that holds
# for a tensor is said.
RULES: Mapping[str, Rule] = {
    "underflow_share": Rule(
        lambda values: values.get("underflow_share", 0) >= 0.25, _underflow
    ),
    "saturation_share": Rule(_is_clipped, _saturation),
    "sqnr": Rule(lambda values: values.get("sqnr", math.inf) < 10, _noise),
}
LOST = 0.5
IN_VAIN = (
    "Nothing was measured: the layers are not called for training, or in a "
    "tf.function of your own, which keeps the trace that it has; take it away, "
    "as Keras compiles the step"
)


class Adviser:
    """Looks at one sample after another, and says each thing once.

    A finding needs `PATIENCE` samples in a row: a scale that one step was
    behind is how delayed scaling works.
    """

    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[str, str]] = (
            collections.Counter()
        )
        self._said: set[tuple[str, str]] = set()

    def look(
        self, values: Mapping[str, float], in_vain: bool = False
    ) -> list[str]:
        """Says what has been wrong for long enough, and is not said yet.

        Args:
            values: what was measured, by name; of nothing, nothing is said.
            in_vain: whether a step was to be measured, and no tensor was.
        """
        if not (values or in_vain):
            return []
        wrong = {(f.kind, f.where): f for f in _wrong(values)}
        if in_vain:
            wrong["in_vain", ""] = Finding("in_vain", "", IN_VAIN)
        for key in set(self._counts) - set(wrong):
            del self._counts[key]
        self._counts.update(wrong.keys())
        new = [
            finding
            for key, finding in wrong.items()
            if self._counts[key] >= PATIENCE and key not in self._said
        ]
        self._said.update((f.kind, f.where) for f in new)
        return [finding.message for finding in new]


def _wrong(values: Mapping[str, float]) -> Iterator[Finding]:
    tensors: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        where, _, statistic = name.rpartition("/")
        tensors.setdefault(where, {})[statistic] = value
    for where, own in tensors.items():
        layer, _, role = where.rpartition("/")
        for kind, rule in RULES.items():
            if rule.wrong(own):
                tensor = NAMES.get(role, role)
                yield Finding(kind, where, rule.says(layer, tensor, own))
                break
    lost = values.get("lost_updates_share", 0.0)
    if lost >= LOST:
        yield Finding(
            "lost_updates_share",
            "",
            f"{lost:.0%} of the updates are lost to rounding, as variables "
            "have 16 bits; use a mixed policy, which has float32 variables",
        )
