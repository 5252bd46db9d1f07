"""What is wrong with a training in low precision, and what to do, in words.

The monitor says it while a model trains, the report afterwards; no TensorFlow.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

PATIENCE = 2  # samples in a row
BEHIND_BY = -4  # bits that a scale is too small by
OF_ATTENTION = ("scores", "values")  # products, whose format is the layer's
NAMES = {"inputs": "inputs", "kernel": "kernel values", "grads": "gradients"}
NARROW = (
    "the range of FP8 is too narrow for them: use "
    "tfmp.set_precision(model, {'%s': 'mixed_bfloat16'})"
)
BEHIND = (
    "the scale still follows larger values in its window: use a shorter "
    "amax_history_len, or tfmp.recipes.CurrentScaling"
)
CLIPPED = (
    "they grow faster than delayed scaling follows: raise the recipe's "
    "margin, or use tfmp.recipes.CurrentScaling; if the loss grows too, the "
    "training diverges: lower the learning rate"
)
LOST = (
    "of the updates are lost to rounding, as variables have 16 bits; use a "
    "mixed policy, which has float32 variables"
)
IN_VAIN = (
    "Nothing was measured: the layers are not called with training=True, or "
    "they are in a tf.function of your own, which keeps its first trace; "
    "remove that tf.function, as Keras compiles the step"
)
NOT_FINITE = (
    "The loss is not finite; tfmp.debug.find_nonfinite(model, x, y) names the "
    "first tensor that is not"
)
SKIPPED = (
    "Every step since the last sample was skipped; "
    "tfmp.callbacks.TerminateOnOverflow ends such a training, and names the "
    "first tensor that is not finite"
)


class Finding(NamedTuple):
    """Something that is wrong.

    Attributes:
        kind: what it is.
        where: `<layer>/<role>`, or "" for the training as a whole.
        message: a sentence, with what to do.
    """

    kind: str
    where: str
    message: str


def of_tensor(where: str, values: Mapping[str, float]) -> Finding | None:
    """Returns what is wrong with a tensor, None if nothing is.

    A quarter of it underflows; or a hundredth is clipped, and less than 20 dB
    are left; or less than 10 dB are left.  Rounding alone leaves 31 dB in E4M3
    and 25 dB in E5M2.

    Args:
        where: `<layer path>/<role>`.
        values: its statistics by name.

    >>> of_tensor("net/head/grads", {"underflow_share": 0.01}) is None
    True
    """
    layer, _, role = where.rpartition("/")
    tensor = NAMES.get(role, role)
    flushed = values.get("underflow_share", 0.0)
    clipped = values.get("saturation_share", 0.0)
    sqnr = values.get("sqnr", math.inf)
    if flushed >= 0.25:
        kind, said = "underflow_share", f"{flushed:.0%} of {tensor} underflow "
        said += "to zero"
    elif clipped >= 0.01 and sqnr < 20:
        kind, said = (
            "saturation_share",
            f"{clipped:.1%} of {tensor} are clipped",
        )
    elif sqnr < 10:
        kind, said = "sqnr", f"the SQNR of {tensor} is only {sqnr:.0f} dB"
    else:
        return None
    return Finding(kind, where, f"{layer}: {said}; {cure(where, kind, values)}")


def cure(where: str, kind: str, values: Mapping[str, float]) -> str:
    """Says whether the scale is at fault or the format, and what helps.

    Args:
        where: `<layer path>/<role>`.
        kind: the statistic that is wrong.
        values: the tensor's statistics by name.
    """
    lag = values.get("lag", 0.0)
    if kind == "saturation_share" or (kind == "sqnr" and lag >= 1):
        return CLIPPED
    if lag <= BEHIND_BY:
        return BEHIND
    operator = where.rpartition("/")[0]
    layer, _, name = operator.rpartition("/")
    return NARROW % (layer if name in OF_ATTENTION else operator)


class Adviser:
    """Looks at one sample after another, and says each thing once.

    A finding needs `PATIENCE` samples in a row: a scale that one step was
    behind is how delayed scaling works.
    """

    def __init__(self) -> None:
        self._training, self._measured = _Patience(), _Patience()
        self._before: tuple[int, float] | None = None

    def get_state(self) -> dict[str, Any]:
        """Returns what it has seen and said, as JSON has it."""
        return {
            "before": self._before,
            "training": self._training.get_state(),
            "measured": self._measured.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `get_state` returned."""
        before = state["before"]
        self._before = None if before is None else (before[0], before[1])
        self._training.set_state(state["training"])
        self._measured.set_state(state["measured"])

    def look_at_training(
        self, step: int, skipped: float, loss: float
    ) -> list[str]:
        """Says what is wrong with the training as a whole.

        Args:
            step: training steps done.
            skipped: how many of them were skipped; NaN if nobody counts.
            loss: NaN or an infinity is wrong.
        """
        found = []
        if not math.isfinite(loss):
            found.append(Finding("loss", "", NOT_FINITE))
        if self._before is not None:
            steps = step - self._before[0]
            if 0 < steps <= skipped - self._before[1]:
                found.append(Finding("skipped", "", SKIPPED))
        self._before = step, skipped
        return self._training.new(found)

    def look(
        self, values: Mapping[str, float], in_vain: bool = False
    ) -> list[str]:
        """Says what is wrong with the tensors of a measured step.

        Args:
            values: what was measured, by name; of nothing, nothing is said.
            in_vain: whether a step was to be measured, and no tensor was.
        """
        if not (values or in_vain):
            return []
        found = list(_of_tensors(values))
        if in_vain:
            found.append(Finding("in_vain", "", IN_VAIN))
        lost = values.get("lost_updates_share", 0.0)
        if lost >= 0.5:
            found.append(
                Finding("lost_updates_share", "", f"{lost:.0%} {LOST}")
            )
        return self._measured.new(found)


class _Patience:
    """Lets a finding through, once, when it has lasted."""

    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[str, str]] = (
            collections.Counter()
        )
        self._said: set[tuple[str, str]] = set()

    def get_state(self) -> dict[str, Any]:
        counts = [[*key, count] for key, count in self._counts.items()]
        return {"counts": counts, "said": [list(key) for key in self._said]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        found = {(kind, at): count for kind, at, count in state["counts"]}
        self._counts = collections.Counter(found)
        self._said = {(kind, at) for kind, at in state["said"]}

    def new(self, found: Iterable[Finding]) -> list[str]:
        """Returns what has lasted by now, and was not returned before."""
        wrong = {(each.kind, each.where): each.message for each in found}
        for key in set(self._counts) - set(wrong):
            del self._counts[key]
        self._counts.update(wrong.keys())
        new = {
            key: message
            for key, message in wrong.items()
            if self._counts[key] >= PATIENCE and key not in self._said
        }
        self._said.update(new)
        return list(new.values())


def _of_tensors(values: Mapping[str, float]) -> Iterator[Finding]:
    tensors: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        where, _, statistic = name.rpartition("/")
        tensors.setdefault(where, {})[statistic] = value
    for where, own in tensors.items():
        finding = of_tensor(where, own)
        if finding:
            yield finding
