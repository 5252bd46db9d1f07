"""What every recipe says: the roles, the products, and their formats."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from tfmp import formats
from tfmp._support import checks

ROLES = ("inputs", "kernel", "grads")
OPERANDS = {
    "output": ("inputs", "kernel"),
    "input_grad": ("grads", "kernel"),
    "kernel_grad": ("inputs", "grads"),
}
PRODUCTS = tuple(OPERANDS)


@dataclasses.dataclass(frozen=True, repr=False)
class Recipe:
    """What all recipes share.

    Attributes:
        emulates: whether the products are emulated: operands with the values
            of a format, multiplied in float32.  Such a product is not FP8.
        observes: whether scales follow from what passes see of a tensor; a
            layer then has a state that keeps it.
        high_precision: the products that stay in the compute dtype.
        high_precision_projections: those that do so besides, of attention's
            projections: query, key, value and output.
        attention: whether attention's own products run by the recipe too.
        current: the roles whose scale comes from the tensor itself.
        window: how many steps other scales follow from.

    >>> from tfmp.recipes import Emulated
    >>> recipe = Emulated("MXFP4", high_precision=("kernel_grad",))
    >>> [recipe.lowers(p) for p in ("output", "kernel_grad")]
    [True, False]
    """

    # With types, these would be the first fields of every recipe.
    emulates = False
    observes = True
    high_precision = cast(Any, ())
    high_precision_projections = cast(Any, ())
    attention = cast(Any, False)
    current = cast(Any, ROLES)
    window = cast(Any, 1)

    def format(self, role: str) -> Any:
        """Returns the format of `"inputs"`, `"kernel"` or `"grads"`."""
        return formats.get(getattr(self, checks.choice("role", role, ROLES)))

    def is_delayed(self, role: str) -> bool:
        """Whether the role's scale comes from earlier steps."""
        checks.choice("role", role, ROLES)
        return self.observes and role not in self.current

    def lowers(self, product: str) -> bool:
        """Whether a product multiplies quantized operands."""
        checks.choice("product", product, PRODUCTS)
        return product not in self.high_precision

    def in_float8(self, product: str) -> bool:
        """Whether a product multiplies FP8 operands; emulated ones do not."""
        return self.lowers(product) and not self.emulates

    def quantizes(self, role: str) -> bool:
        """Whether any product has this role as a quantized operand."""
        checks.choice("role", role, ROLES)
        return any(
            role in operands and self.lowers(product)
            for product, operands in OPERANDS.items()
        )

    def in_one_format(self) -> Recipe:
        """Returns the recipe that a convolution can run by."""
        return self

    def keep_high_precision(self, products: tuple[str, ...]) -> Recipe:
        """Returns the same recipe with more products in the compute dtype."""
        added = checks.names("products", products, PRODUCTS)
        fields: Any = {"high_precision": (*self.high_precision, *added)}
        return dataclasses.replace(self, **fields)

    def in_projections(self) -> Recipe:
        """Returns what the recipe is for a projection of attention."""
        if not self.high_precision_projections:
            return self
        fields: Any = {"high_precision_projections": ()}
        plain = dataclasses.replace(self, **fields)
        return plain.keep_high_precision(self.high_precision_projections)

    def as_current(self) -> Recipe:
        """Returns the same formats and products without a state.

        With current scaling, unless no scale follows from what passes see.
        """
        return self

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as JSON-serialisable values."""
        values = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(type(self))
        }
        return {name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_config(cls, config: Any) -> Recipe:
        """Rebuilds a recipe from `get_config()`.

        Raises:
            TypeError: if `config` is not a dictionary.
            ValueError: if it has a key that is no field, or lacks one that
                has no default.
        """
        fields = dataclasses.fields(cls)
        known = [field.name for field in fields]
        needed = {f.name for f in fields if f.default is dataclasses.MISSING}
        if not isinstance(config, dict):
            raise TypeError(
                f"`config` must be a dictionary with keys out of {known}. "
                f"Received: {config!r}"
            )
        config = cls._renewed(config)
        if not needed <= config.keys() <= set(known):
            least = f", {sorted(needed)} among them" if needed else ""
            raise ValueError(
                f"`config` must have keys out of {known}{least}. "
                f"Received: {config!r}"
            )
        return cls(**config)

    @classmethod
    def _renewed(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config of files that had `inputs`, `kernel` and `grads`.

        They stood beside the fields that now hold them.
        """
        rest = {k: v for k, v in config.items() if k not in ROLES}
        roles = {k: v for k, v in config.items() if k in ROLES}
        return cls._with_formats(rest, roles) if roles else config

    @classmethod
    def _with_formats(
        cls, config: dict[str, Any], roles: dict[str, Any]
    ) -> dict[str, Any]:
        """Puts the formats of old roles, or None, into their fields."""
        return config | roles

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(type(self))
            if getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _plain(value: Any) -> Any:
    if isinstance(value, formats.Format | formats.BlockFormat):
        return formats.serialize(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
