"""What the operators have in common: checks of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfmp import recipes
from tfmp._core import contractions, observations, probes, scaling
from tfmp._support import checks


def operand(name: str, x: Any) -> tf.Tensor:
    """Converts an argument to a tensor that a product can take.

    Raises:
        TypeError: if it does not convert, or has no compute dtype.
        ValueError: if its rank is unknown.
    """
    x = scaling.as_tensor(name, x)
    if x.dtype not in contractions.COMPUTE_DTYPES:
        allowed = ", ".join(d.name for d in contractions.COMPUTE_DTYPES)
        raise TypeError(
            f"`{name}` must be of dtype {allowed}. "
            f"Received: dtype {x.dtype.name}"
        )
    if x.shape.rank is None:
        raise ValueError(
            f"`{name}` must have a known rank; lengths may be unknown. "
            f"Received: shape {x.shape}"
        )
    return x


def recipe(recipe: Any, amax: Any) -> recipes.Recipe:
    """Finds the recipe, by default one that fits `amax`.

    Raises:
        ValueError: if the recipe needs `amax` and there is none.
    """
    if recipe is None:
        recipe = "current" if amax is None else "delayed"
    recipe = recipes.get(recipe)
    if amax is None and any(recipe.is_delayed(r) for r in recipes.ROLES):
        raise ValueError(
            "`amax` must be given for a recipe with delayed scaling: a float32 "
            f"tensor of shape [3]. Received: amax=None, recipe={recipe!r}"
        )
    found: recipes.Recipe = recipe
    return found


def amax(amax: Any) -> tuple[tf.Tensor, Callable[..., Any] | None]:
    """Returns the argument `amax` as a float32 tensor of shape `[3]`.

    Beside it, what takes in the observed amax, if a layer's state is given.

    Raises:
        TypeError: if it has another dtype.
        ValueError: if it has another shape.
    """
    if amax is None:
        return tf.zeros([3]), None
    if isinstance(amax, observations.Pass):
        return amax
    amax = scaling.as_tensor("amax", amax)
    if amax.dtype != tf.float32:
        raise TypeError(
            f"`amax` must be float32. Received: dtype {amax.dtype.name}"
        )
    if not amax.shape.is_compatible_with([3]):
        raise ValueError(
            f"`amax` must have shape [3]. Received: shape {amax.shape}"
        )
    return tf.ensure_shape(amax, [3]), None


def probe(probe: Any, recipe: recipes.Recipe) -> probes.Probe | None:
    """Checks the argument `probe`.

    Raises:
        TypeError: if it is something else.
        ValueError: if the recipe emulates, of which nothing is measured.
    """
    kind = probes.Probe | None
    checks.instance("probe", probe, kind, "a tfmp.ops.Probe or None")
    if probe is not None and recipe.emulates:
        raise ValueError(
            "`probe` must be None for a recipe that emulates. "
            f"Received: probe={probe!r}, recipe={recipe!r}"
        )
    found: probes.Probe | None = probe
    return found
