"""The scales of a contraction, and the factors that a GPU takes them out by.

On a CPU no product reads a factor: what a GPU multiplies by is tested here.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfmp import recipes
from tfmp._core import product_scales, scaling

# Of inputs, kernel and gradients: what is assumed, and what a step observes.
ASSUMED, OBSERVED = (3.0, 0.02, 1e-4), (50.0, 0.3, 2e-6)
NONE = (0.0, 0.0, 0.0)
RECIPES = [r for r in recipes.PRESETS.values() if not r.emulates]
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=repr)
each_mode = pytest.mark.parametrize("training", [True, False])
each_start = pytest.mark.parametrize("amax", [ASSUMED, NONE], ids=["on", "off"])


def both_passes(recipe, training, amax):
    """Returns what the forward pass knows, and what the backward pass knows."""
    observed = dict(
        zip(recipes.ROLES[:2], map(tf.constant, OBSERVED), strict=False)
    )
    early = product_scales.forward(
        recipe, training, tf.constant(amax), observed, tf.float32
    )
    late, seen = product_scales.backward(
        recipe,
        training,
        tf.constant(amax),
        tf.constant(OBSERVED),
        early,
        tf.float32,
    )
    np.testing.assert_array_equal(seen, np.float32(OBSERVED))
    return early, late


def expected_scale(recipe, training, amax, role):
    """By the words of the recipes' documentation, for one role."""
    if isinstance(recipe, recipes.StaticScaling):
        return recipe.static_scale(role)
    place = recipes.ROLES.index(role)
    own = OBSERVED[place]
    delayed = recipe.is_delayed(role) and (training or role != "grads")
    assumed = amax[place] if delayed else own
    target = recipe.format(role)
    if not assumed:  # not observed yet
        prior = scaling.PRIOR_AMAX.get((role, target.name), 0.0)
        looks = role == "kernel" or not training
        assumed = own if looks else prior
    found = scaling.compute_scale(assumed, target, recipe.margin)
    return float(found)


@each_start
@each_mode
@each_recipe
def test_scales_are_those_of_what_is_assumed(recipe, training, amax):
    _, late = both_passes(recipe, training, amax)
    quantized = [role for role in recipes.ROLES if recipe.quantizes(role)]
    assert sorted(late.scales) == sorted(quantized)
    for role, scale in late.scales.items():
        expected = expected_scale(recipe, training, amax, role)
        assert float(scale) == expected, role


@each_start
@each_mode
@each_recipe
def test_a_factor_undoes_the_scales_of_both_operands(recipe, training, amax):
    early, late = both_passes(recipe, training, amax)
    for product, (lhs, rhs) in recipes.OPERANDS.items():
        if {lhs, rhs} <= set(late.scales):
            both = float(late.scales[lhs]) * float(late.scales[rhs])
            assert float(late.factors[product]) * both == 1.0
        else:
            assert product not in late.factors
    for product, factor in early.factors.items():
        assert float(factor) == float(late.factors[product])


def test_a_factor_is_never_infinite():
    """Of tensors so large that both scales are tiny; zero times it is zero."""
    recipe = recipes.CurrentScaling()
    huge = {role: tf.constant(3e38) for role in recipes.ROLES[:2]}
    amax = tf.zeros([3])
    found = product_scales.forward(recipe, True, amax, huge, tf.float32)
    assert np.isfinite(found.factors["output"])
