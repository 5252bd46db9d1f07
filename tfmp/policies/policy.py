"""Dtype policies: Keras' own, and `mixed_float8` with its recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tfmp import recipes
from tfmp._keras import first_use, policy_callers, symbolic_calls
from tfmp._support import checks
from tfmp._support.policy_names import NAMES, parts

SAID = f"one of {NAMES}, or a dtype ('name' must be a string)"


@keras.saving.register_keras_serializable("tfmp")
class Policy(keras.DTypePolicy):
    """A Keras dtype policy; `mixed_float8` also carries a recipe.

    | name             | compute  | variables | products of tfmp layers |
    |------------------|----------|-----------|-------------------------|
    | `float32`        | float32  | float32   | float32                 |
    | `float16`        | float16  | float16   | float16                 |
    | `bfloat16`       | bfloat16 | bfloat16  | bfloat16                |
    | `mixed_float16`  | float16  | float32   | float16                 |
    | `mixed_bfloat16` | bfloat16 | float32   | bfloat16                |
    | `mixed_float8`   | bfloat16 | float32   | FP8, by the recipe      |

    Under `mixed_float8` a stock Keras layer computes in bfloat16.  With the
    recipe `tfmp.recipes.Emulated` no product is FP8: operands of any format
    are multiplied in float32.

    Without a recipe it equals Keras' policy of the same name.

    Names may be in capitals, and short: `fp32` is `float32`; `fp16`, `bf16` and
    `fp8` are the mixed ones, as in other libraries.  A recipe's preset may
    follow a colon: `fp8:current`.

    Args:
        name: one of the names above, or any other dtype, as in Keras; by
            default that of the global policy, with its recipe.
        recipe: for `mixed_float8`, a `tfmp.recipes` recipe or preset name;
            `DelayedScaling()` by default.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the name is unknown, or another policy than
            `mixed_float8` is given a recipe.

    >>> Policy("mixed_float8", recipe="current")
    <Policy "mixed_float8", recipe=CurrentScaling()>
    >>> Policy("mixed_float8:current") == Policy("fp8", recipe="current")
    True
    >>> Policy("BF16")
    <Policy "mixed_bfloat16">
    """

    def __init__(self, name: str | None = None, recipe: Any = None) -> None:
        if name is None:
            policy = global_policy()
            name = policy.name
            recipe = recipe_of(policy) if recipe is None else recipe
        name, preset = parts(checks.instance("name", name, str, SAID))
        self._parse_name(name)
        if preset is not None and recipe is not None:
            raise ValueError(
                f"`recipe` must be None if `name` has one. Received: "
                f"name={f'{name}:{preset}'!r}, recipe={recipe!r}"
            )
        recipe = preset if recipe is None else recipe
        if name != "mixed_float8" and recipe is not None:
            raise ValueError(
                "`recipe` must be None for a policy other than 'mixed_float8'. "
                f"Received: name={name!r}, recipe={recipe!r}"
            )
        if name == "mixed_float8":
            recipe = recipes.get("delayed" if recipe is None else recipe)
        self._recipe = recipe
        # `DTypePolicyMap.get_config` sets `_name` of its entries to None.
        self._own_name = name
        super().__init__(name)
        first_use.used()

    def _parse_name(self, name: str) -> tuple[str, str]:
        if name == "mixed_float8":
            return "bfloat16", "float32"
        try:
            found: tuple[str, str] = super()._parse_name(name)
            return found
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"`name` must be one of {NAMES}, or a dtype. Keras says: "
                f"{error} Received: {name!r}"
            ) from error

    @property
    def name(self) -> str:
        """The name, one of the table's.

        `keras.Operation.from_config` reduces a policy to its name, and cannot
        build it again from that.  It is the only caller that gets the
        serialised policy instead, which every layer takes as its `dtype`.
        (The policy itself would do, but not where Keras generates a layer's
        config: that is of plain values only.)

        A layer that Keras quantizes gets the policy
        `int8_from_mixed_bfloat16`, of names that Keras knows.
        """
        asking = policy_callers.of_name()
        if asking.rebuilds:
            found: str = keras.dtype_policies.serialize(self)
            return found
        if asking.quantizes:
            return policy_callers.keras_name(self)
        return self._own_name

    @property
    def recipe(self) -> recipes.Recipe | None:
        """The recipe of `mixed_float8`; None for every other policy."""
        found: recipes.Recipe | None = self._recipe
        return found

    def with_recipe(self, recipe: Any) -> Policy:
        """Returns the same policy with another recipe."""
        return Policy(self._own_name, recipe)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as JSON-serialisable values."""
        config: dict[str, Any] = {"name": self.name}
        if self._recipe is not None:
            config["recipe"] = recipes.serialize(self._recipe)
        return config

    def __eq__(self, other: object) -> bool:
        # No other: `FloatDTypePolicy` answers itself, and says False.
        known = isinstance(other, Policy) or type(other) is keras.DTypePolicy
        return (
            known
            and isinstance(other, keras.DTypePolicy)
            and self.name == other.name
            and self.recipe == recipe_of(other)
        )

    def __hash__(self) -> int:
        return hash((self.name, self._recipe))

    def __repr__(self) -> str:
        recipe = f", recipe={self._recipe!r}" if self._recipe else ""
        return f'<Policy "{self.name}"{recipe}>'


def get(dtype: Any) -> keras.DTypePolicy:
    """Finds a policy by value, name or serialised form.

    A name of `NAMES` gives a `Policy`, any other what Keras makes of it; None
    gives the global policy.

    Args:
        dtype: as what a Keras layer is given.

    Raises:
        ValueError: if it is no policy.

    >>> get("mixed_float8").recipe
    DelayedScaling()
    """
    if isinstance(dtype, str) and parts(dtype)[0] in NAMES:
        return Policy(dtype)
    try:
        return keras.dtype_policies.get(dtype)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "`dtype` must be a dtype policy, what Keras serialised of one, or "
            f"a name such as {NAMES} ({error}). Received: {dtype!r}"
        ) from error


def recipe_of(policy: keras.DTypePolicy) -> recipes.Recipe | None:
    """Returns the recipe of a policy, None if it has none."""
    return getattr(policy, "recipe", None)


def policy_at(policy: keras.DTypePolicy, path: str | None) -> keras.DTypePolicy:
    """Returns what a policy, or a map of policies, is for a path."""
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        name = checks.instance("path", path, str | None, "a string, or None")
        return policy[name] if name else policy.default_policy
    return policy


def recipe_at(
    policy: keras.DTypePolicy, path: str | None
) -> recipes.Recipe | None:
    """Returns the recipe that a policy, or map of policies, has for a path.

    None while layers compute as those of Keras: `symbolic_calls.as_stock`.
    """
    if symbolic_calls.is_as_stock():
        return None
    return recipe_of(policy_at(policy, path))


def in_projections(
    policy: keras.DTypePolicy, path: str | None
) -> keras.DTypePolicy:
    """Returns what a policy, or map, is for a projection of attention."""
    own = policy_at(policy, path)
    recipe = recipe_of(own)
    if recipe is None or not recipe.high_precision_projections:
        return policy
    found: Policy = own.with_recipe(recipe.in_projections())
    return found


def set_global_policy(policy: Any) -> None:
    """Sets the policy of all layers that are built without one.

    Args:
        policy: a `Policy`, any other Keras dtype policy, or a name.

    Raises:
        TypeError: if `policy` is neither a policy nor a name.
        ValueError: if the name is unknown.

    >>> set_global_policy("mixed_float8")
    >>> global_policy().compute_dtype
    'bfloat16'
    >>> set_global_policy("float32")
    """
    keras.config.set_dtype_policy(checked(policy))


def global_policy() -> keras.DTypePolicy:
    """Returns the policy of layers that are built without one.

    >>> global_policy().name
    'float32'
    """
    return keras.config.dtype_policy()


@contextlib.contextmanager
def policy_scope(policy: Any) -> Iterator[keras.DTypePolicy]:
    """Sets the global policy within a `with` block, also if that fails.

    Args:
        policy: as for `set_global_policy`.

    Yields:
        The policy.

    >>> with policy_scope("mixed_float16") as policy:
    ...     layer = keras.layers.Dense(1)
    >>> layer.compute_dtype, global_policy().name
    ('float16', 'float32')
    """
    policy, before = checked(policy), global_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield policy
    finally:
        keras.config.set_dtype_policy(before)


def checked(policy: Any) -> keras.DTypePolicy:
    """Returns a policy as it is, or that of a name of `NAMES`."""
    if isinstance(policy, keras.DTypePolicy):
        return policy
    if not isinstance(policy, str) or parts(policy)[0] not in NAMES:
        checks.choice("policy", policy, NAMES)
    return Policy(policy)
