"""The precisions that an analysis asks about, and what each rounds to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp import policies, recipes
from tfmp._core import emulation, quantization, scaling

USUAL = ("mixed_float8", "mixed_bfloat16")
SAID = (
    "a tuple or list of policies or names of policies, each once, such as "
    f"{USUAL}"
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A precision that a layer may get.

    Attributes:
        name: of the policy; of one with another recipe than the usual one,
            the recipe's after it, `mixed_float8:current_e4m3`; the formats of
            an emulated one, `mixed_float8:emulated MXFP4`.
        policy: the dtype policy.
    """

    name: str
    policy: keras.DTypePolicy

    @property
    def recipe(self) -> Any:
        """The recipe of the policy, None if it has none."""
        return policies.recipe_of(self.policy)

    @property
    def dtype(self) -> str:
        """What is computed in, where it is not FP8."""
        return str(self.policy.compute_dtype)

    @property
    def measured_policy(self) -> keras.DTypePolicy:
        """The policy with scales of the tensors at hand, and no state."""
        if self.recipe is None:
            return self.policy
        return policies.Policy("mixed_float8", self.recipe.as_current())


def read(candidates: Any) -> tuple[Candidate, ...]:
    """Returns the candidates that an argument names.

    Raises:
        TypeError, ValueError: if it is no sequence of policies, each once.
    """
    if isinstance(candidates, str) or not isinstance(candidates, Sequence):
        raise TypeError(
            f"`candidates` must be {SAID}. Received: {candidates!r}"
        )
    try:
        found = [_candidate(policy) for policy in candidates]
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`candidates` must be {SAID} ({error}). Received: {candidates!r}"
        ) from error
    names = [candidate.name for candidate in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`candidates` must be {SAID}. Received: {candidates!r}"
        )
    return tuple(found)


def _candidate(given: Any) -> Candidate:
    known = isinstance(given, str)
    policy = policies.get(given) if known else policies.checked(given)
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        raise TypeError("a map is not the policy of a layer")
    if not keras.backend.is_float_dtype(policy.compute_dtype):
        raise ValueError(f"{policy.name!r} computes in integers")
    if getattr(policy, "quantization_mode", None) is not None:
        raise ValueError(f"{policy.name!r} is of Keras' quantization")
    return Candidate(_name(policy), policy)


def _name(policy: keras.DTypePolicy) -> str:
    recipe = policies.recipe_of(policy)
    if recipe is None or policy == policies.Policy("mixed_float8"):
        return str(policy.name)
    if recipe.emulates:
        return f"{policy.name}:{recipe}"
    presets = [name for name, r in recipes.PRESETS.items() if r == recipe]
    return f"{policy.name}:{presets[0] if presets else repr(recipe)}"


def reference(candidates: Sequence[Candidate]) -> keras.DTypePolicy:
    """Returns what all are compared to: float32, or float64 if one is that."""
    wide = any(candidate.dtype == "float64" for candidate in candidates)
    return keras.DTypePolicy("float64" if wide else "float32")


def rounded(x: tf.Tensor, role: str, recipe: Any, dtype: str) -> tf.Tensor:
    """Returns what a role's tensor is after rounding, in its own dtype.

    Args:
        x: floating-point tensor.
        role: out of `tfmp.recipes.ROLES`.
        recipe: of FP8, None without.
        dtype: the compute dtype.
    """
    if recipe is None or not recipe.quantizes(role):
        return tf.cast(tf.cast(x, dtype), x.dtype)
    # A kernel is quantized from what is stored.
    low = tf.cast(x, tf.float32 if role == "kernel" else dtype)
    target = recipe.format(role)
    if recipe.emulates:
        low = _emulated(low, role, recipe)
    else:
        scale = scaling.scale_of_role(recipe, role, scaling.amax(low))
        low = quantization.quantize(low, scale, target)
        low = quantization.dequantize(low, scale)
    return tf.cast(low, x.dtype)


def _emulated(x: tf.Tensor, role: str, recipe: Any) -> tf.Tensor:
    """Rounds with blocks as in the forward product of two matrices."""
    target, rounding = recipe.format(role), recipe.rounding_of(role)
    contracted = 0 if x.shape.rank < 4 else -2  # of a kernel
    return emulation.emulate(
        x,
        target,
        scale=emulation.current_scale(x, target),
        axis=contracted if role == "kernel" else -1,
        rounding=rounding,
        seed=recipe.seed if rounding == "stochastic" else None,
    )
