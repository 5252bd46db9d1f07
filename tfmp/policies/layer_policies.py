"""The policy of a layer, and what it says: asked here, and nowhere else.

A layer's `dtype_policy` may be a map for a whole model; what holds for the
layer is then what the map has for its path.
"""

from __future__ import annotations

import keras

from tfmp import recipes
from tfmp._keras import symbolic_calls
from tfmp.policies.frozen_policy import FrozenPolicy
from tfmp.policies.policy import policy_at, recipe_at, recipe_of


def of_layer(layer: keras.Layer) -> keras.DTypePolicy:
    """Returns the policy of a layer, never a map."""
    return policy_at(layer.dtype_policy, layer.path)


def recipe_of_layer(layer: keras.Layer) -> recipes.Recipe | None:
    """Returns the recipe that a layer's policy has, None without.

    None while layers compute as those of Keras.  A layer runs by it if it has
    a class of tfmp too: `tfmp.layers.layer_recipes`.
    """
    return recipe_at(layer.dtype_policy, layer.path)


def frozen_of(layer: keras.Layer) -> FrozenPolicy | None:
    """Returns the policy of a layer that is frozen, None of any other.

    None while layers compute as those of Keras.
    """
    own = of_layer(layer)
    stock = symbolic_calls.is_as_stock()
    return own if isinstance(own, FrozenPolicy) and not stock else None


def emulates(policy: keras.DTypePolicy) -> bool:
    """Whether a policy has products on emulated operands, not in FP8."""
    recipe = recipe_of(policy)
    return recipe is not None and recipe.emulates
