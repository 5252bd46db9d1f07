"""The scalars of a contraction: a scale a role, and a factor a product.

    scale  = 2**e
    factor = 2**-(e_lhs + e_rhs)      of the two roles that are multiplied

A GPU multiplies by the factor; `unscaling` says what a CPU does.

They come as early as they can: with delayed scaling all of them before an
activation is looked at, with current scaling those of inputs and kernel in the
forward pass, the rest in the backward pass; with static scaling they are
constants, which XLA folds.  There they are computed again, in
vectors of all roles: XLA gives each scalar a kernel of its own.

What is needed as a scalar stands behind a barrier, which has XLA compute it in
one kernel; otherwise each product repeats the arithmetic.  But for the scales
of inputs and kernel under current scaling: behind a barrier, they would hide
from XLA that layers quantize the same input alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfmp import recipes
from tfmp._core import scaling, stablehlo

MAX_FACTOR = 2.0**127  # infinity times zero would be NaN


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
    dtype: tf.DType,
) -> Scales:
    """Returns what the forward pass can know.

    Args:
        recipe: formats and scaling of the roles.
        training: whether delayed scaling uses priors, so as not to look at
            activations; if not, it uses a tensor's own amax where `amax` has
            none, and of gradients always.
        amax: float32 of shape `[3]`: what to assume of each role.
        observed: of the inputs and the kernel, their own amax.  A kernel that
            no step has observed can be looked at.
        dtype: of the factors.
    """
    if not recipe.observes:
        return _static(recipe, dtype)
    delayed = list(filter(recipe.is_delayed, _quantized(recipe)))
    early = Scales({}, {})
    powers = {}
    if training and delayed:
        assumed = _assumed(recipe, training, amax, observed["kernel"])
        powers = _powers(recipe, assumed, delayed)
        early = _together(_beside(early, powers, dtype))
    own = _own(recipe, amax, observed, powers)
    found = _beside(early, powers | own, dtype)
    late = {k: v for k, v in found.factors.items() if k not in early.factors}
    return found._replace(factors=early.factors | _together(late))


def backward(
    recipe: recipes.Float8Recipe,
    training: bool,
    amax: tf.Tensor,
    observed: tf.Tensor,
    known: Scales,
    dtype: tf.DType,
) -> tuple[Scales, tf.Tensor]:
    """Returns what was `known` and what the backward pass knows beside it.

    Args:
        recipe: formats and scaling of the roles.
        training: as in the forward pass.
        amax: float32 of shape `[3]`: what to assume of each role.
        observed: float32 of shape `[3]`: of each role, its own amax.
        known: what the forward pass knew.
        dtype: of the factors.

    Returns:
        The scales, and `observed`, which is computed beside them.
    """
    if not recipe.observes:
        return _static(recipe, dtype), observed
    roles = _quantized(recipe)
    if set(roles) <= set(known.scales):
        return known, observed
    assumed = _assumed(recipe, training, amax, observed)
    powers = _powers(recipe, assumed, roles)
    found: tuple[Scales, tf.Tensor] = _together(
        (_beside(known, powers, dtype), observed)
    )
    return found


def of_powers(scales: Mapping[str, tf.Tensor], dtype: tf.DType) -> Scales:
    """Returns known scales, powers of two, with the factors of products.

    Args:
        scales: of some roles.
        dtype: of the factors.
    """
    powers = {role: Power(scale, 1 / scale) for role, scale in scales.items()}
    return _beside(Scales({}, {}), powers, dtype)


def _static(recipe: recipes.Float8Recipe, dtype: tf.DType) -> Scales:
    """Returns all scales and factors, of a recipe that has them."""
    scales = {role: recipe.static_scale(role) for role in recipes.ROLES}
    powers = {
        role: Power(tf.constant(scale), tf.constant(1 / scale))
        for role, scale in scales.items()
        if scale is not None
    }
    return _beside(Scales({}, {}), powers, dtype)


def _beside(known: Scales, powers: dict[str, Power], dtype: tf.DType) -> Scales:
    """Returns what is `known`, and beside it what `powers` make known."""

    def factor(lhs: str, rhs: str) -> tf.Tensor:
        inverse = powers[lhs].inverse * powers[rhs].inverse
        return tf.cast(tf.minimum(inverse, MAX_FACTOR), dtype)

    scales = {role: power.scale for role, power in powers.items()}
    factors = {
        product: factor(lhs, rhs)
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


def _assumed(
    recipe: recipes.Float8Recipe,
    training: bool,
    amax: tf.Tensor,
    observed: tf.Tensor,
) -> tf.Tensor:
    """Returns what the scale of each role follows from, float32 `[3]`.

    `scaling.assumed_amax` of the roles that are delayed, `observed` of others.
    No window is right for gradients that no training asked for.
    """
    delayed = [
        recipe.is_delayed(role) and (training or role != "grads")
        for role in recipes.ROLES
    ]
    if not any(delayed):
        return observed
    looks = [not (training and d) for d in delayed]
    looks[recipes.ROLES.index("kernel")] = True
    priors = [
        scaling.PRIOR_AMAX.get((role, recipe.format(role).name), 0.0)
        for role in recipes.ROLES
    ]
    otherwise = tf.where(looks, observed, priors)
    if not all(delayed):
        amax = tf.where(delayed, amax, 0.0)
    return tf.where(scaling.is_observed(amax), amax, otherwise)


def _powers(
    recipe: recipes.Float8Recipe,
    assumed: tf.Tensor,
    roles: Sequence[str],
) -> dict[str, Power]:
    """Returns the scales of some `roles` from what is assumed of all.

    In vectors: that is a third of the operations.
    """
    targets = [recipe.format(role) for role in recipes.ROLES]
    exponents = scaling.scale_exponent(assumed, targets, recipe.margin)
    vectors = scaling.exp2(exponents), scaling.exp2(-exponents)
    each = map(Power, *(tf.unstack(v, len(recipes.ROLES)) for v in vectors))
    powers = dict(zip(recipes.ROLES, each, strict=True))
    return {role: powers[role] for role in roles}


def _quantized(recipe: recipes.Float8Recipe) -> list[str]:
    return list(filter(recipe.quantizes, recipes.ROLES))


def _together(nest: Any) -> Any:
    """Returns a nest of tensors, behind one barrier."""
    flat = tf.nest.flatten(nest)
    if not flat:
        return nest
    return tf.nest.pack_sequence_as(nest, stablehlo.barrier(*flat))
