"""Recipes: how a contraction uses FP8, as frozen values.

A contraction `y = x @ w` has three operands that may be quantized, its roles:

    inputs   x, the activation
    kernel   w, the weight
    grads    dy, the gradient of y

and three products:

    output       x  . w     inputs x kernel
    input_grad   dy . w     grads  x kernel
    kernel_grad  x  . dy    inputs x grads

A recipe says, for each role, its format and how its scale is found, and which
products stay in the compute dtype.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tfmp import checks, formats

ROLES = ("inputs", "kernel", "grads")
OPERANDS = {
    "output": ("inputs", "kernel"),
    "input_grad": ("grads", "kernel"),
    "kernel_grad": ("inputs", "grads"),
}
PRODUCTS = tuple(OPERANDS)
FP8_FORMATS = {
    "HYBRID": {"inputs": "E4M3", "kernel": "E4M3", "grads": "E5M2"},
    "E4M3": {"inputs": "E4M3", "kernel": "E4M3", "grads": "E4M3"},
}


def _float8_name(role: str, name: object) -> str:
    allowed = tuple(f.name for f in formats.FLOAT8)
    text = name.name if isinstance(name, formats.Format) else name
    return checks.choice(role, text, allowed)


@dataclasses.dataclass(frozen=True, repr=False)
class Recipe:
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

    current: ClassVar[Any] = ROLES

    def __post_init__(self) -> None:
        checks.integer("margin", self.margin, 0, 16)
        checks.choice("fp8_format", self.fp8_format, tuple(FP8_FORMATS))
        for role, default in FP8_FORMATS[self.fp8_format].items():
            name = (
                default if getattr(self, role) is None else getattr(self, role)
            )
            object.__setattr__(self, role, _float8_name(role, name))
        products = checks.names("high_precision", self.high_precision, PRODUCTS)
        object.__setattr__(self, "high_precision", products)
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
        return formats.get(getattr(self, checks.choice("role", role, ROLES)))

    def is_delayed(self, role: str) -> bool:
        """Whether the role's scale comes from earlier steps."""
        return checks.choice("role", role, ROLES) not in self.current

    def in_float8(self, product: str) -> bool:
        """Whether a product multiplies FP8 operands."""
        checks.choice("product", product, PRODUCTS)
        return product not in self.high_precision

    def quantizes(self, role: str) -> bool:
        """Whether any FP8 product has this role as an operand."""
        checks.choice("role", role, ROLES)
        return any(
            role in operands and self.in_float8(product)
            for product, operands in OPERANDS.items()
        )

    def in_one_format(self) -> Recipe:
        """Returns the same recipe with E4M3 for every role.

        A convolution takes operands of one format, and of two only E4M3 is
        precise enough for the forward product.
        """
        return dataclasses.replace(
            self, fp8_format="E4M3", inputs=None, kernel=None, grads=None
        )

    def keep_high_precision(self, products: tuple[str, ...]) -> Recipe:
        """Returns the same recipe with more products in the compute dtype."""
        added = checks.names("products", products, PRODUCTS)
        products = (*self.high_precision, *added)
        return dataclasses.replace(self, high_precision=products)

    def as_current(self) -> CurrentScaling:
        """Returns the same formats and products with current scaling."""
        shared = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)
        }
        return CurrentScaling(**shared)

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as JSON-serialisable values."""
        values = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(type(self))
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    @classmethod
    def from_config(cls, config: Any) -> Recipe:
        """Rebuilds a recipe from `get_config()`.

        Raises:
            TypeError: if `config` is not a dictionary.
            ValueError: if it has a key that is no field.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(config, dict):
            raise TypeError(
                f"`config` must be a dictionary with keys out of {known}. "
                f"Received: {config!r}"
            )
        if not config.keys() <= set(known):
            raise ValueError(
                f"`config` must have keys out of {known}. Received: {config!r}"
            )
        return cls(**config)

    def __repr__(self) -> str:
        roles = FP8_FORMATS[self.fp8_format]
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(type(self))
            if getattr(self, f.name) != roles.get(f.name, f.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, repr=False)
class DelayedScaling(Recipe):
    """Scales from the amax of earlier steps: one pass over each tensor.

        amax  = max of the last `amax_history_len` observations
        scale = 2**floor(log2(max / amax)) * 2**-margin

    The window is kept by `tfmp.optimizers.LossScaleOptimizer`; with any other
    optimizer it is the last step alone.  Source: Transformer Engine's user
    guide; the defaults are those of its examples.

    Args:
        margin, fp8_format, inputs, kernel, grads, high_precision, attention:
            see `Recipe`.
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


@dataclasses.dataclass(frozen=True, repr=False)
class CurrentScaling(Recipe):
    """Scales from the tensor itself: two passes over it, and no state.

        scale = 2**floor(log2(max / max(abs(x)))) * 2**-margin

    Args:
        margin, fp8_format, inputs, kernel, grads, high_precision, attention:
            see `Recipe`.

    >>> CurrentScaling(fp8_format="E4M3").grads
    'E4M3'
    """


PRESETS: dict[str, Recipe] = {
    "delayed": DelayedScaling(),
    "delayed_e4m3": DelayedScaling(fp8_format="E4M3"),
    "delayed_high_precision_kernel_grad": DelayedScaling(
        high_precision=("kernel_grad",)
    ),
    "current": CurrentScaling(),
    "current_e4m3": CurrentScaling(fp8_format="E4M3"),
    "current_high_precision_kernel_grad": CurrentScaling(
        high_precision=("kernel_grad",)
    ),
}


def get(recipe: object) -> Recipe:
    """Finds a recipe by value, preset name or serialised form.

    Args:
        recipe: a `Recipe`, a name of `PRESETS`, or what `serialize` gave.

    Raises:
        TypeError: if `recipe` is none of these.
        ValueError: if it names no preset and no recipe class.

    >>> get("current")
    CurrentScaling()
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str):
        checks.choice("recipe", recipe, tuple(PRESETS))
        return PRESETS[recipe]
    if isinstance(recipe, dict):
        return _deserialize(recipe)
    raise TypeError(
        "`recipe` must be a tfmp.recipes.DelayedScaling or CurrentScaling, or "
        f"a name out of {tuple(PRESETS)}. Received: {recipe!r}"
    )


def serialize(recipe: Recipe) -> dict[str, Any]:
    """Returns `{"class_name", "config"}`, which `get` turns back.

    >>> get(serialize(DelayedScaling(margin=1)))
    DelayedScaling(margin=1)
    """
    recipe = get(recipe)
    return {"class_name": type(recipe).__name__, "config": recipe.get_config()}


def _deserialize(config: dict[str, Any]) -> Recipe:
    classes = {c.__name__: c for c in (DelayedScaling, CurrentScaling)}
    name = checks.choice(
        "recipe['class_name']", config.get("class_name"), classes
    )
    return classes[name].from_config(config.get("config"))
