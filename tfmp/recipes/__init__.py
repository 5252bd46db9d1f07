"""Recipes: how a contraction uses low precision, as frozen values.

A contraction `y = x @ w` has three operands that may be quantized, its roles:

    inputs   x, the activation
    kernel   w, the weight
    grads    dy, the gradient of y

and three products:

    output       x  . w     inputs x kernel
    input_grad   dy . w     grads  x kernel
    kernel_grad  x  . dy    inputs x grads

A recipe says, for each role, its format and how its scale is found, and which
products stay in the compute dtype.  `DelayedScaling`, `CurrentScaling` and
`StaticScaling` run in FP8, `Emulated` shows what any other format would do.
"""

from __future__ import annotations

from typing import Any

from tfmp._support import checks
from tfmp.recipes.emulated import Emulated
from tfmp.recipes.float8 import FP8_FORMATS as FP8_FORMATS
from tfmp.recipes.float8 import CurrentScaling, DelayedScaling, Float8Recipe
from tfmp.recipes.recipe import OPERANDS as OPERANDS
from tfmp.recipes.recipe import PRODUCTS as PRODUCTS
from tfmp.recipes.recipe import ROLES as ROLES
from tfmp.recipes.recipe import Recipe
from tfmp.recipes.static_scaling import StaticScaling

__all__ = [
    "CurrentScaling",
    "DelayedScaling",
    "Emulated",
    "Float8Recipe",
    "Recipe",
    "StaticScaling",
    "get",
    "serialize",
]


PRESETS: dict[str, Recipe] = {
    "delayed": DelayedScaling(),
    "delayed_e4m3": DelayedScaling(fp8_format="E4M3"),
    "delayed_high_precision_kernel_grad": DelayedScaling(
        high_precision=("kernel_grad",)
    ),
    "delayed_e4m3_high_precision_output": DelayedScaling(
        fp8_format="E4M3", high_precision=("output",)
    ),
    "delayed_high_precision_projections": DelayedScaling(
        high_precision_projections=("output",)
    ),
    "current": CurrentScaling(),
    "current_e4m3": CurrentScaling(fp8_format="E4M3"),
    "current_high_precision_kernel_grad": CurrentScaling(
        high_precision=("kernel_grad",)
    ),
    "current_high_precision_projections": CurrentScaling(
        high_precision_projections=("output",)
    ),
    "static": StaticScaling(),
    "static_e4m3": StaticScaling(fp8_format="E4M3"),
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
        "`recipe` must be a tfmp.recipes.DelayedScaling, CurrentScaling, "
        f"StaticScaling or Emulated, or a name out of {tuple(PRESETS)}. "
        f"Received: {recipe!r}"
    )


def serialize(recipe: Recipe) -> dict[str, Any]:
    """Returns `{"class_name", "config"}`, which `get` turns back.

    >>> get(serialize(DelayedScaling(margin=1)))
    DelayedScaling(margin=1)
    """
    recipe = get(recipe)
    return {"class_name": type(recipe).__name__, "config": recipe.get_config()}


def _deserialize(config: dict[str, Any]) -> Recipe:
    every = (DelayedScaling, CurrentScaling, StaticScaling, Emulated)
    classes: dict[str, type[Recipe]] = {c.__name__: c for c in every}
    name = checks.choice(
        "recipe['class_name']", config.get("class_name"), classes
    )
    return classes[name].from_config(config.get("config"))
