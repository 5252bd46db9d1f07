"""How formats hold the tensors of a new model, as values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tfmp import recipes
from tfmp._support import checks, tables
from tfmp.analysis.reals import reals

ENOUGH = 0.01  # of a tensor's values: so many may be outside
TITLES = ("layer", "tensor", "format", "rms", "too small", "too large", "mend")
MENDS = {
    "inputs": "normalize them, or multiply by {factor}",
    "kernel": "RandomNormal(stddev=1), and the result times {rms:.2g}",
    "grads": "multiply the loss by {factor}",
}


@dataclasses.dataclass(frozen=True)
class InitialRange:
    """How a format holds one tensor that a layer multiplies.

    Attributes:
        layer: path of the layer.
        role: `"inputs"`, `"kernel"` or `"grads"`, of the layer's result.
        format: name of the format that the recipe has for it.
        rms: root mean square of the values.
        too_small: share of the values that become zero.
        too_large: share that is beyond the largest of the format.

    >>> row = InitialRange("net/a", "grads", "E5M2", 2.0**-20, 0.9, 0.0)
    >>> row.outside, row.factor, row.mend
    (True, 1048576.0, 'multiply the loss by 2**20')
    """

    layer: str
    role: str
    format: str
    rms: float
    too_small: float
    too_large: float

    def __post_init__(self) -> None:
        checks.fields(self, layer=str, format=str)
        checks.choice("role", self.role, recipes.ROLES)
        reals(self, "rms", "too_small", "too_large")

    @property
    def outside(self) -> bool:
        """Whether more than 1 % of the values are, or any is not finite."""
        lost = max(self.too_small, self.too_large) > ENOUGH
        return lost or not math.isfinite(self.rms)

    @property
    def factor(self) -> float:
        """The power of two that brings the root mean square next to 1."""
        known = math.isfinite(self.rms) and self.rms > 0
        return 2.0 ** -round(math.log2(self.rms)) if known else 1.0

    @property
    def mend(self) -> str:
        """What would bring it into the range, in words; empty if it is."""
        if not math.isfinite(self.rms):
            return "not finite: tfmp.debug.find_nonfinite"
        power = f"2**{round(math.log2(self.factor))}"
        said = MENDS[self.role].format(factor=power, rms=self.rms)
        return said if self.outside else ""


@dataclasses.dataclass(frozen=True, repr=False)
class Initialization:
    """How formats hold the tensors of a new model; printing gives a table.

    Attributes:
        recipe: whose formats and scales they are.
        rows: an `InitialRange` for each layer and role.
        notes: what else to know.

    >>> row = InitialRange("net/a", "kernel", "E4M3", 2.0**-12, 0.9, 0.0)
    >>> Initialization(recipes.StaticScaling(), (row,)).static_scaling()
    StaticScaling(scale=(1.0, 4096.0, 1.0))
    """

    recipe: recipes.StaticScaling
    rows: tuple[InitialRange, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        static(self.recipe)
        said = "a tuple of tfmp.analysis.InitialRange"
        checks.sequence("rows", self.rows, InitialRange, said)
        checks.sequence("notes", self.notes, str, "a tuple of strings")

    @property
    def outside(self) -> tuple[InitialRange, ...]:
        """The rows of tensors that are outside of their format's range."""
        return tuple(row for row in self.rows if row.outside)

    def static_scaling(self) -> recipes.StaticScaling:
        """Returns the recipe with a scale for each role, of these tensors.

        It is the median of what each layer would need: it mends a model whose
        layers are alike, as a whole.
        """
        inputs, kernel, grads = map(self._middle, recipes.ROLES)
        scale = inputs, kernel, grads
        return dataclasses.replace(self.recipe, scale=scale)

    def _middle(self, role: str) -> float:
        found = sorted(row.factor for row in self.rows if row.role == role)
        return found[len(found) // 2] if found else 1.0

    def __str__(self) -> str:
        lines = tables.lines([TITLES, *map(_cells, self.rows)])
        count = f"{len(self.outside)} of {len(self.rows)} tensors are outside"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"{count}; {self.recipe!r}", *notes])

    __repr__ = __str__


def static(recipe: Any) -> recipes.StaticScaling:
    """Returns an argument `recipe`, if it has constant scales."""
    kind = recipes.StaticScaling
    found: recipes.StaticScaling = checks.instance(
        "recipe", recipe, kind, "a tfmp.recipes.StaticScaling"
    )
    return found


def _cells(row: InitialRange) -> tuple[str, ...]:
    return (
        row.layer,
        row.role,
        row.format,
        f"{row.rms:.2g}",
        f"{row.too_small:.2%}",
        f"{row.too_large:.2%}",
        row.mend,
    )
