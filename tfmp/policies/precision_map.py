"""`PrecisionMap`: a dtype policy for each layer, by path or pattern."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import keras

from tfmp import recipes
from tfmp._keras import class_and_policy, policy_callers
from tfmp._support import checks, plain_values
from tfmp._support.policy_names import NAMES
from tfmp.policies.policy import Policy, get, global_policy, recipe_of

KEYS = ("default", "policies")
FORMS = (
    '{"head": "float32"}, or {"default": "mixed_float8", '
    '"policies": {"head": "float32"}}'
)


@keras.saving.register_keras_serializable("tfmp")
class PrecisionMap(keras.dtype_policies.DTypePolicyMap):
    """Chooses a policy by the path of a layer.

    A key is the exact path of a layer, or else a regular expression for whole
    components of a path: it may begin at any component, and holds for all
    that is below what it matches.

        "stem"            stem, model/stem, model/stem/conv_1
        "block_.*/attn"   model/block_3/attn, model/block_3/attn/query
        "gpt/head"        the layer of that path, and what is below

    An exact path goes before every pattern; of several patterns that match,
    the first one holds.

    Usable wherever Keras takes a dtype policy: as global policy, as a layer's
    `dtype`, and for `tfmp.convert` and `tfmp.set_precision`.

    Args:
        policies: dictionary of keys to policies, or names of policies.
        default: for all other paths; by default the global policy.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a policy is unknown, or a key is neither a path nor a
            regular expression.

    >>> choice = PrecisionMap({"head": "float32"}, default="mixed_float8")
    >>> choice["gpt/head"].name, choice["gpt/block_1/ffn"].name
    ('float32', 'mixed_float8')
    """

    def __init__(
        self, policies: Mapping[str, Any] | None = None, default: Any = None
    ) -> None:
        super().__init__(default_policy=_default(default))
        self.has_default = default is not None
        if policies is not None and not isinstance(policies, Mapping):
            raise TypeError(
                "`policies` must be a dictionary of paths or patterns to "
                f"policies. Received: {policies!r}"
            )
        for key, policy in (policies or {}).items():
            self[_checked_key(key)] = _single(f"policies[{key!r}]", policy)

    @property
    def name(self) -> str:
        """The default's name, after `map_`.

        A layer that Keras quantizes gets the policy of its path for its own,
        and the name of that: Keras would change this map, for all layers.
        """
        asking = policy_callers.of_name()
        if asking.quantizes:
            return self._given_to(asking.who)
        return f"map_{self.default_policy.name}"

    def _given_to(self, asking: Any) -> str:
        policy = self[getattr(asking, "path", None) or ""]
        if isinstance(asking, keras.Layer):
            class_and_policy.assign(asking, policy)
        return policy_callers.keras_name(policy)

    def __getitem__(self, path: str) -> keras.DTypePolicy:
        """Returns the policy of a path."""
        key = self.match(path)
        return self.default_policy if key is None else super().__getitem__(key)

    def match(self, *paths: str) -> str | None:
        """Returns the key that decides about a layer, None for the default.

        Args:
            *paths: names that the layer goes by.
        """
        for path in paths:
            if checks.instance("path", path, str, "a string") in self:
                return path
        for key in self:
            if any(_holds(key, path) for path in paths):
                found: str | None = key
                return found
        return None

    def unmatched(self, paths: Collection[str]) -> list[str]:
        """Returns the keys that hold for none of the paths: misspelt, maybe.

        >>> PrecisionMap({"haed": "float32"}).unmatched(["gpt/head"])
        ['haed']
        """
        paths = checks.sequence("paths", paths, str, "a list of strings")
        return [k for k in self if not any(_holds(k, p) for p in paths)]

    @classmethod
    def load(cls, path: Any) -> PrecisionMap:
        """Reads a map from a JSON or YAML file.

            {"default": "mixed_float8", "policies": {"head": "float32"}}

        or the dictionary of `policies` alone.  A policy is a name, or
        `{"name": "mixed_float8", "recipe": "current"}`.

        Args:
            path: ends in `.json`, `.yaml` or `.yml`.  YAML needs PyYAML.

        Raises:
            ModuleNotFoundError: if the file is YAML and PyYAML is missing.
            ValueError: if the file holds something else.
        """
        path = checks.path("path", path)
        is_yaml = path.suffix in (".yaml", ".yml")
        read = plain_values.from_yaml if is_yaml else plain_values.from_json
        try:
            return cls(**_arguments(read(path.read_text(encoding="utf-8"))))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the file of `path` must hold {FORMS}, in JSON or YAML "
                f"({plain_values.shortened(error)}). Received: {str(path)!r}"
            ) from error

    def save(self, path: Any) -> None:
        """Writes a JSON file that `load` reads."""
        content = {
            "default": _plain(self.default_policy),
            "policies": {key: _plain(policy) for key, policy in self.items()},
        }
        text = json.dumps(content, indent=2) + "\n"
        checks.path("path", path).write_text(text, encoding="utf-8")

    def items(self) -> list[tuple[str, keras.DTypePolicy]]:
        """Returns the keys and their policies, in order."""
        return [
            (key, super(PrecisionMap, self).__getitem__(key)) for key in self
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as JSON-serialisable values."""
        serialize = keras.dtype_policies.serialize
        default = self.default_policy if self.has_default else None
        return {
            "policies": {
                key: serialize(policy) for key, policy in self.items()
            },
            "default": default and serialize(default),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> PrecisionMap:
        """Rebuilds the map from `get_config()`."""
        return cls(**_checked_keys("`config`", config))

    def __repr__(self) -> str:
        own = {key: _plain(policy) for key, policy in self.items()}
        return f"PrecisionMap({own}, default={_plain(self.default_policy)!r})"


def _arguments(content: object) -> dict[str, Any]:
    """Of either form of a file; where a key is one of `KEYS`, all must be."""
    if isinstance(content, dict) and not set(content) & set(KEYS):
        content = {"policies": content}
    return _checked_keys("what it holds", content)


def _checked_keys(name: str, content: object) -> dict[str, Any]:
    if not isinstance(content, dict) or not set(content) <= set(KEYS):
        raise ValueError(
            f"{name} must be a dictionary with the keys {list(KEYS)}. "
            f"Received: {content!r}"
        )
    return content


def _holds(key: str, path: str) -> bool:
    return bool(re.fullmatch(rf"(?:.*/)?(?:{key})(?:/.*)?", path))


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(
            "a key of `policies` must be a path or a regular expression. "
            f"Received: {key!r}"
        )
    try:
        re.compile(key)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            "a key of `policies` must be a path or a regular expression "
            f"({error}). Received: {key!r}"
        ) from error
    return key


def _default(policy: Any) -> keras.DTypePolicy:
    """Keras allows a map no map as its default, also as the global policy."""
    if policy is None:
        policy = global_policy()
        return getattr(policy, "default_policy", policy)
    return _single("default", policy)


def _single(name: str, policy: Any) -> keras.DTypePolicy:
    said = f"a dtype policy that is no map, or a name out of {NAMES}"
    found = policy
    try:
        if isinstance(policy, dict) and set(policy) <= {"name", "recipe"}:
            found = Policy(policy.get("name", ""), policy.get("recipe"))
        elif isinstance(policy, (str, dict)):
            found = get(policy)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`{name}` must be {said} ({error}). Received: {policy!r}"
        ) from error
    if isinstance(found, keras.dtype_policies.DTypePolicyMap):
        raise TypeError(f"`{name}` must be {said}. Received: {policy!r}")
    return checks.instance(name, found, keras.DTypePolicy, said)


def _plain(policy: keras.DTypePolicy) -> Any:
    """As in a file: the name, with the recipe if it is not the usual one."""
    recipe = recipe_of(policy)
    if recipe is None or policy == Policy("mixed_float8"):
        return policy.name
    presets = [name for name, r in recipes.PRESETS.items() if r == recipe]
    plain = presets[0] if presets else recipes.serialize(recipe)
    return {"name": policy.name, "recipe": plain}
