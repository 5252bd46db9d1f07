"""Whether a layer is in FP8, and by which recipe.

A layer contracts by a recipe if it has a class of tfmp and its policy has one;
of attention, the recipe says whether its own products do.
"""

from __future__ import annotations

import keras

from tfmp import recipes
from tfmp.layers.attention import Float8Attention
from tfmp.layers.contraction import Float8Layer


def recipe_of_products(layer: keras.Layer) -> recipes.Recipe | None:
    """Returns the recipe of a layer's own products, None without."""
    if isinstance(layer, Float8Layer):
        return layer.recipe
    if isinstance(layer, Float8Attention) and layer.recipe is not None:
        return layer.recipe if layer.recipe.attention else None
    return None


def has_idle_state(layer: keras.Layer) -> bool:
    """Whether a layer has left FP8, with state for when it comes back."""
    state = getattr(layer, "float8", None)
    return state is not None and state.recipe is None
