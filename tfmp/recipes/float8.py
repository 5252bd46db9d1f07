"""Recipes of products on FP8 operands: delayed and current scaling."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tfmp import formats
from tfmp._support import checks
from tfmp.recipes.recipe import OPERANDS, PRODUCTS, ROLES, Recipe

FP8_FORMATS = {
    "HYBRID": {"inputs": "E4M3", "kernel": "E4M3", "grads": "E5M2"},
    "E4M3": {"inputs": "E4M3", "kernel": "E4M3", "grads": "E4M3"},
}


def _float8_name(role: str, name: object) -> str:
    allowed = tuple(f.name for f in formats.FLOAT8)
    text = name.name if isinstance(name, formats.Format) else name
    return checks.choice(role, text, allowed)


@dataclasses.dataclass(frozen=True, repr=False)
class Float8Recipe(Recipe):
    """What `DelayedScaling` and `CurrentScaling` share.

    Args:
        margin: the scale leaves this many powers of two of headroom above
            the assumed amax: `scale = 2**-margin * max / amax`.  An integer
            from 0 to 16.
        fp8_format: `"HYBRID"` (E4M3 forward, E5M2 for gradients) or `"E4M3"`
            for all; arXiv 2209.05433, section 3.
        inputs, kernel, grads: `"E4M3"` or `"E5M2"`, to set the format of one
            role; None takes it from `fp8_format`.
        high_precision: the products that stay in the compute dtype: any of
            `"output"`, `"input_grad"`, `"kernel_grad"`.
        high_precision_projections: those that do so besides in attention's
            projections of query, key, value and output.
        attention: whether attention's products of scores and values run on
            FP8 operands too, each scaled by its own amax; Transformer Engine
            calls it `fp8_dpa`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of its range, or if an FP8 product
            would multiply E5M2 by E5M2, which no GPU library has.

    >>> recipe = CurrentScaling(high_precision=("kernel_grad",))
    >>> recipe.in_float8("output"), recipe.in_float8("kernel_grad")
    (True, False)
    """

    margin: int = 0
    fp8_format: str = "HYBRID"
    inputs: str | None = None
    kernel: str | None = None
    grads: str | None = None
    high_precision: tuple[str, ...] = ()
    attention: bool = False
    high_precision_projections: tuple[str, ...] = ()

    current: ClassVar[Any] = ROLES  # type: ignore[misc]

    def __post_init__(self) -> None:
        checks.integer("margin", self.margin, 0, 16)
        checks.choice("fp8_format", self.fp8_format, tuple(FP8_FORMATS))
        for role, default in FP8_FORMATS[self.fp8_format].items():
            name = (
                default if getattr(self, role) is None else getattr(self, role)
            )
            object.__setattr__(self, role, _float8_name(role, name))
        for name in ("high_precision", "high_precision_projections"):
            products = checks.names(name, getattr(self, name), PRODUCTS)
            object.__setattr__(self, name, products)
        checks.boolean("attention", self.attention)
        self._check_operands()

    def _check_operands(self) -> None:
        for product, (first, second) in OPERANDS.items():
            both = {getattr(self, first), getattr(self, second)}
            if self.in_float8(product) and both == {"E5M2"}:
                raise ValueError(
                    f"`{first}` and `{second}` must not both be 'E5M2': the "
                    f"product '{product}' has no FP8 kernel for that. Use "
                    "'E4M3' for one of them, or keep the product in the "
                    f"compute dtype: high_precision=('{product}',). "
                    f"Received: {first}='E5M2', {second}='E5M2'"
                )

    def format(self, role: str) -> formats.Format:
        """Returns the `Format` of `"inputs"`, `"kernel"` or `"grads"`."""
        return formats.get_plain(super().format(role))

    def usual_formats(self) -> dict[str, str]:
        """Returns what `fp8_format` says of each role."""
        return FP8_FORMATS[self.fp8_format]

    def in_one_format(self) -> Recipe:
        """Returns the same recipe with E4M3 for every role.

        A convolution takes operands of one format, and of two only E4M3 is
        precise enough for the forward product.
        """
        return dataclasses.replace(
            self, fp8_format="E4M3", inputs=None, kernel=None, grads=None
        )

    def as_current(self) -> CurrentScaling:
        """Returns the same formats and products with current scaling."""
        shared = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Float8Recipe)
        }
        return CurrentScaling(**shared)


@dataclasses.dataclass(frozen=True, repr=False)
class DelayedScaling(Float8Recipe):
    """Scales from the amax of earlier steps: one pass over each tensor.

        amax  = max of the last `amax_history_len` observations
        scale = 2**floor(log2(max / amax)) * 2**-margin

    The window is kept by `tfmp.optimizers.LossScaleOptimizer`.  With any other
    optimizer, or none, a layer has no window, and its amax fades:

        amax = max(what the last pass observed, amax * (n - 1) / (n + 1))

    where `n` is the length of the window.  Source: Transformer Engine's user
    guide; the defaults are those of its examples.

    Args:
        margin, fp8_format, inputs, kernel, grads: see `Float8Recipe`.
        high_precision, high_precision_projections, attention: the same.
        amax_history_len: length of the window, in steps, from 1 to 4096.
        amax_compute_algo: `"max"` of the window, or `"most_recent"`.
        current: the roles that use current scaling all the same.

    >>> DelayedScaling(amax_history_len=32)
    DelayedScaling(amax_history_len=32)
    """

    amax_history_len: int = 16
    amax_compute_algo: str = "max"
    current: tuple[str, ...] = ()  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("amax_history_len", self.amax_history_len, 1, 4096)
        checks.choice(
            "amax_compute_algo", self.amax_compute_algo, ("max", "most_recent")
        )
        roles = checks.names("current", self.current, ROLES)
        object.__setattr__(self, "current", roles)

    @property
    def window(self) -> int:
        """How many steps the scales follow from."""
        recent = self.amax_compute_algo == "most_recent"
        return 1 if recent else self.amax_history_len


@dataclasses.dataclass(frozen=True, repr=False)
class CurrentScaling(Float8Recipe):
    """Scales from the tensor itself: two passes over it, and no state.

        scale = 2**floor(log2(max / max(abs(x)))) * 2**-margin

    Args:
        margin, fp8_format, inputs, kernel, grads: see `Float8Recipe`.
        high_precision, high_precision_projections, attention: the same.

    >>> CurrentScaling(fp8_format="E4M3").grads
    'E4M3'
    """
