"""The scalars of a contraction: a scale a role, and a factor a product.

    scale  = 2**e
    factor = 2**-(e_lhs + e_rhs)      of the two roles that are multiplied

They come as early as they can: with delayed scaling all of them before an
activation is looked at, with current scaling those of inputs and kernel in the
forward pass, the rest in the backward pass.  All of delayed scaling stands
behind one barrier, which has XLA compute it in one kernel; otherwise each
product repeats the arithmetic.  Behind a barrier, current scaling would hide
from XLA that layers quantize the same input alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from tfmp import recipes, scaling, stablehlo

MAX_FACTOR = 2.0**127


class Scales(NamedTuple):
    """What is known of a contraction's scales.

    Attributes:
        scales: of each role.
        factors: what undoes the scales of each product's operands.
    """

    scales: dict[str, tf.Tensor]
    factors: dict[str, tf.Tensor]


class Power(NamedTuple):
    """A scale and its inverse, both powers of two."""

    scale: tf.Tensor
    inverse: tf.Tensor


def forward(
    recipe: recipes.Float8Recipe,
    training: bool,
    amax: tf.Tensor,
    observed: Mapping[str, tf.Tensor],
) -> Scales:
    """Returns what the forward pass can know.

    Args:
        recipe: formats and scaling of the roles.
        training: whether delayed scaling uses priors, so as not to look at
            activations; if not, it uses a tensor's own amax where `amax` has
            none.
        amax: float32 of shape `[3]`: what to assume of each role.
        observed: of the inputs and the kernel, their own amax.  A kernel that
            no step has observed can be looked at.
    """
    powers = _delayed(recipe, amax, observed["kernel"]) if training else {}
    early = _beside(Scales({}, {}), powers)
    flat = tf.nest.flatten(early)
    if flat:
        early = tf.nest.pack_sequence_as(early, stablehlo.barrier(*flat))
    return _beside(early, powers | _own(recipe, amax, observed, powers))


def backward(
    recipe: recipes.Float8Recipe,
    amax: tf.Tensor,
    observed: Mapping[str, tf.Tensor],
    known: Scales,
) -> Scales:
    """Returns what was `known` and what the backward pass knows beside it."""
    powers = {
        role: Power(scale, 1 / scale) for role, scale in known.scales.items()
    }
    return _beside(known, powers | _own(recipe, amax, observed, powers))


def _beside(known: Scales, powers: dict[str, Power]) -> Scales:
    """Returns what is `known`, and beside it what `powers` make known."""
    scales = {role: power.scale for role, power in powers.items()}
    factors = {
        product: tf.minimum(
            powers[lhs].inverse * powers[rhs].inverse, MAX_FACTOR
        )
        for product, (lhs, rhs) in recipes.OPERANDS.items()
        if product not in known.factors and {lhs, rhs} <= set(powers)
    }
    return Scales(scales | known.scales, factors | known.factors)


def _own(
    recipe: recipes.Float8Recipe,
    amax: tf.Tensor,
    observed: Mapping[str, tf.Tensor],
    known: Mapping[str, Power],
) -> dict[str, Power]:
    """Returns the scales of tensors that had to be looked at.

    The inverse from the scale, not from the exponent: a GPU then needs a
    kernel less a tensor.
    """
    powers = {}
    for role, own in observed.items():
        if role in known or not recipe.quantizes(role):
            continue
        target = recipe.format(role)
        if recipe.is_delayed(role):
            own = scaling.assumed_amax(amax, role, target, own)
        exponent = scaling.scale_exponent(own, target, recipe.margin)
        scale = scaling.exp2(exponent)
        powers[role] = Power(scale, 1 / scale)
    return powers


def _delayed(
    recipe: recipes.Float8Recipe, amax: tf.Tensor, kernel_amax: tf.Tensor
) -> dict[str, Power]:
    """Returns the scales of the roles under delayed scaling.

    Of all three at once, in vectors: that is a third of the operations.
    """
    roles = [
        role
        for role in recipes.ROLES
        if recipe.is_delayed(role) and recipe.quantizes(role)
    ]
    if not roles:
        return {}
    targets = [recipe.format(role) for role in recipes.ROLES]
    known = scaling.assumed_amaxes(amax, kernel_amax, targets)
    exponents = scaling.scale_exponent(known, targets, recipe.margin)
    vectors = scaling.exp2(exponents), scaling.exp2(-exponents)
    each = map(Power, *(tf.unstack(v, len(recipes.ROLES)) for v in vectors))
    powers = dict(zip(recipes.ROLES, each, strict=True))
    return {role: powers[role] for role in roles}
