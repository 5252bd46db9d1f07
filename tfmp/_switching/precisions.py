"""What a training may change to, as a user writes it and as it is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfmp import policies, recipes
from tfmp.conversion.converter import plan_of
from tfmp.conversion.plan import Conversion
from tfmp.policies.precision_map import KEYS, PrecisionMap

SAID = (
    "a policy, its name, a PrecisionMap, a dictionary of paths to policies, "
    "or the config of one of these"
)


def checked_policy(name: str, policy: Any) -> keras.DTypePolicy:
    """Returns one policy that a layer can change to in training.

    Args:
        name: of the argument, for errors.
        policy: a policy, its name or its config.

    Raises:
        TypeError: if it is something else.
        ValueError: if it is unknown, or has variables of 16 bits: those of a
            built layer stay what they are.
    """
    if isinstance(policy, dict):
        policy = _from_config(name, policy)
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        raise TypeError(
            f"`{name}` must be one policy, not a map. Received: {policy!r}"
        )
    try:
        found = policies.checked(policy)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`{name}` must be a policy, its name or its config ({error}). "
            f"Received: {policy!r}"
        ) from error
    return _float32_variables(name, found)


def checked(name: str, precision: Any) -> Conversion:
    """Returns what `tfmp.set_precision` would do for such an argument.

    Args:
        name: of the argument, for errors.
        precision: a policy, its name, a `PrecisionMap`, a dictionary of paths
            to policies, or the config of one of these.

    Raises:
        TypeError, ValueError: if it is not allowed, also if a policy has
            variables of 16 bits: those of a built layer stay what they are.
    """
    if isinstance(precision, dict) and _is_config(precision):
        precision = _from_config(name, precision)
    plan = plan_of(precision, name)
    used = [policy for _, policy in plan.policy.items()]
    if not plan.only_matched:
        used.append(plan.policy.default_policy)
    for policy in used:
        _float32_variables(name, policy)
    return plan


def label(policy: keras.DTypePolicy) -> str:
    """Returns a policy in words: its name, and a recipe that is not usual.

    >>> label(policies.Policy("mixed_float8", "current"))
    'mixed_float8 (current)'
    """
    recipe = policies.recipe_of(policy)
    if recipe is None or recipe == recipes.DelayedScaling():
        return str(policy.name)
    presets = [name for name, r in recipes.PRESETS.items() if r == recipe]
    return f"{policy.name} ({presets[0] if presets else repr(recipe)})"


def same(first: keras.DTypePolicy, second: keras.DTypePolicy) -> bool:
    """Whether two policies make a layer compute alike; one may be Keras'."""
    dtypes = [
        (p.compute_dtype, p.variable_dtype, policies.recipe_of(p))
        for p in (first, second)
    ]
    return dtypes[0] == dtypes[1]


def bits(policy: keras.DTypePolicy) -> int:
    """Returns how many bits the products of a layer have for an operand."""
    if policies.recipe_of(policy) is not None:
        return 8
    return 32 if policy.compute_dtype == "float32" else 16


def _is_config(precision: Mapping[str, Any]) -> bool:
    keys = set(precision)
    of_policy = "name" in keys and keys <= {"name", "recipe"}
    of_map = "policies" in keys and keys <= set(KEYS)
    return "class_name" in keys or of_policy or of_map


def _from_config(name: str, config: dict[str, Any]) -> Any:
    try:
        if "class_name" in config:
            return policies.get(config)
        if "policies" in config:
            return PrecisionMap(**config)
        return policies.Policy(**config)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`{name}` must be {SAID} ({error}). Received: {config!r}"
        ) from error


def _float32_variables(
    name: str, policy: keras.DTypePolicy
) -> keras.DTypePolicy:
    if policy.variable_dtype != "float32":
        raise ValueError(
            f"`{name}` must have policies with float32 variables, such as "
            "'mixed_bfloat16': the variables of a layer that trains stay what "
            f"they are. Received: {label(policy)!r}"
        )
    return policy
