"""Recipes of products on FP8 operands: delayed and current scaling."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tfmp import formats
from tfmp._support import checks
from tfmp.recipes.recipe import OPERANDS, PRODUCTS, ROLES, Recipe

FP8_FORMATS = {
    "HYBRID": ("E4M3", "E4M3", "E5M2"),
    "E4M3": ("E4M3", "E4M3", "E4M3"),
}


def _known(given: Any) -> Any:
    """Returns `fp8_format` by its name if it has one, else as three names."""
    if not isinstance(given, tuple | list):
        return checks.choice("fp8_format", given, tuple(FP8_FORMATS))
    if len(given) != len(ROLES):
        raise ValueError(
            f"`fp8_format` must be one of {tuple(FP8_FORMATS)}, or three "
            f"formats: of inputs, kernel and grads. Received: {given!r}"
        )
    names = tuple(format.name for format in formats.FLOAT8)
    found = tuple(
        checks.choice(f"fp8_format[{at}]", _name(each), names)
        for at, each in enumerate(given)
    )
    known: dict[Any, str] = {roles: name for name, roles in FP8_FORMATS.items()}
    return known.get(found, found)


def _name(given: Any) -> Any:
    return given.name if isinstance(given, formats.Format) else given


@dataclasses.dataclass(frozen=True, repr=False)
class Float8Recipe(Recipe):
    """What the recipes of products on FP8 operands share.

    Args:
        margin: the scale leaves this many powers of two of headroom above
            the assumed amax: `scale = 2**-margin * max / amax`.  An integer
            from 0 to 16.
        fp8_format: `"HYBRID"` (E4M3 forward, E5M2 for gradients) or `"E4M3"`
            for all; arXiv 2209.05433, section 3.  Or three of `"E4M3"` and
            `"E5M2"`: the formats of inputs, kernel and gradients.
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
    fp8_format: str | tuple[str, str, str] = "HYBRID"
    high_precision: tuple[str, ...] = ()
    attention: bool = False
    high_precision_projections: tuple[str, ...] = ()

    current: ClassVar[Any] = ROLES  # type: ignore[misc]

    def __post_init__(self) -> None:
        checks.integer("margin", self.margin, 0, 16)
        object.__setattr__(self, "fp8_format", _known(self.fp8_format))
        for name in ("high_precision", "high_precision_projections"):
            products = checks.names(name, getattr(self, name), PRODUCTS)
            object.__setattr__(self, name, products)
        checks.boolean("attention", self.attention)
        self._check_operands()

    @property
    def inputs(self) -> str:
        """The name of the format of inputs."""
        return self._formats[0]

    @property
    def kernel(self) -> str:
        """The name of the format of the kernel."""
        return self._formats[1]

    @property
    def grads(self) -> str:
        """The name of the format of gradients."""
        return self._formats[2]

    @property
    def _formats(self) -> tuple[str, str, str]:
        if isinstance(self.fp8_format, str):
            return FP8_FORMATS[self.fp8_format]
        return self.fp8_format

    @classmethod
    def _with_formats(
        cls, config: dict[str, Any], roles: dict[str, Any]
    ) -> dict[str, Any]:
        name = config.get("fp8_format", "HYBRID")
        checks.choice("fp8_format", name, tuple(FP8_FORMATS))
        usual = dict(zip(ROLES, FP8_FORMATS[name], strict=True))
        given = {k: v for k, v in roles.items() if v is not None}
        return config | {"fp8_format": tuple((usual | given).values())}

    def _check_operands(self) -> None:
        for product, (first, second) in OPERANDS.items():
            both = {getattr(self, first), getattr(self, second)}
            if self.in_float8(product) and both == {"E5M2"}:
                raise ValueError(
                    f"`fp8_format` must not have 'E5M2' for both `{first}` and "
                    f"`{second}`: '{product}' has no FP8 kernel for that. Use "
                    "'E4M3' for one of them, or keep the product in the "
                    f"compute dtype: high_precision=('{product}',). "
                    f"Received: {first}='E5M2', {second}='E5M2'"
                )

    def format(self, role: str) -> formats.Format:
        """Returns the `Format` of `"inputs"`, `"kernel"` or `"grads"`."""
        return formats.get_plain(super().format(role))

    def static_scale(self, role: str) -> float | None:
        """Returns the constant that is a role's scale, None if none is."""
        checks.choice("role", role, ROLES)
        return None

    def in_one_format(self) -> Recipe:
        """Returns the same recipe with E4M3 for every role.

        A convolution takes operands of one format, and of two only E4M3 is
        precise enough for the forward product.
        """
        return dataclasses.replace(self, fp8_format="E4M3")

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
        margin, fp8_format: see `Float8Recipe`.
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
        margin, fp8_format: see `Float8Recipe`.
        high_precision, high_precision_projections, attention: the same.

    >>> CurrentScaling(fp8_format="E4M3").grads
    'E4M3'
    """
