"""The recipe of products on FP8 operands whose scales are constants."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from tfmp._support import checks
from tfmp.recipes.float8 import Float8Recipe
from tfmp.recipes.recipe import ROLES

LIMIT = 2.0**64  # of a scale; two of them, and a margin, fit into float32


@dataclasses.dataclass(frozen=True, repr=False)
class StaticScaling(Float8Recipe):
    """Scales that are constants: no amax, no history, no state.

        scale = what is given * 2**-margin

    A tensor is read once, to quantize it, and nothing is measured of it.  So
    the model has to keep its tensors in the range of the formats, as one with
    unit scaling does.  A value beyond the largest of its format, 448 in E4M3
    and 57344 in E5M2, saturates: it becomes that largest value, silently; one
    below half the smallest, 2**-9 and 2**-16, becomes zero.
    `tfmp.callbacks.ScaleMonitor` shows the shares of both.  What is not
    finite becomes NaN, in the gradients too, so that an optimizer which scales
    the loss skips the step.

    A loss scale multiplies gradients, and one that is dynamic grows until they
    saturate: of a `tfmp.optimizers.LossScaleOptimizer` ask for
    `initial_scale=1, dynamic=False`.

    Args:
        margin, fp8_format: see `Float8Recipe`.
        high_precision, high_precision_projections, attention: the same.
        scale: a power of two from 2**-64 to 2**64, or three of them: of
            inputs, kernel and gradients.

    Source: arXiv 2303.11257, section 4 (FP8 without scales, on tensors of
    unit variance); arXiv 2502.05967, section 3.

    >>> StaticScaling(scale=(1, 1, 2**10)).static_scale("grads")
    1024.0
    """

    scale: float | tuple[float, float, float] = 1.0

    observes = False
    current: ClassVar[Any] = ()  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", _known(self.scale))

    def static_scale(self, role: str) -> float:
        """Returns the scale of `"inputs"`, `"kernel"` or `"grads"`."""
        at = ROLES.index(checks.choice("role", role, ROLES))
        own = self.scale[at] if isinstance(self.scale, tuple) else self.scale
        return own * 2.0**-self.margin

    def as_current(self) -> StaticScaling:  # type: ignore[override]
        """Returns itself: it needs no state."""
        return self


def _known(given: Any) -> float | tuple[float, ...]:
    """Returns one scale if all roles have the same, else three."""
    if not isinstance(given, tuple | list):
        return _power_of_two("scale", given)
    if len(given) != len(ROLES):
        raise ValueError(
            "`scale` must be a power of two, or three of them: of inputs, "
            f"kernel and grads. Received: {given!r}"
        )
    scales = tuple(
        _power_of_two(f"scale[{at}]", each) for at, each in enumerate(given)
    )
    return scales[0] if len(set(scales)) == 1 else scales


def _power_of_two(name: str, given: Any) -> float:
    scale = checks.number(name, given, 1 / LIMIT, LIMIT)
    if math.frexp(scale)[0] != 0.5:
        raise ValueError(f"`{name}` must be a power of two. Received: {given}")
    return scale
