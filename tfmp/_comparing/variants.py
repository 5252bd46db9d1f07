"""The models of a comparison: those given, or one in several policies."""

from __future__ import annotations

import functools
import pathlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfmp import policies
from tfmp._keras import layer_kinds
from tfmp._support import checks
from tfmp.conversion.converter import convert
from tfmp.conversion.records import flatten

AS_IT_IS = "as it is"
FLOAT32 = "float32"


def named(models: Any, chosen: Any) -> dict[str, keras.Model]:
    """Returns the models to compare by their names, the first as the base.

    Args:
        models: as `compare` takes them.
        chosen: the policies, as `compare` takes them.

    Raises:
        TypeError, ValueError: if they are none.
    """
    if isinstance(models, keras.Model):
        return _in_policies(models, chosen)
    if not isinstance(models, Mapping) or not models:
        raise TypeError(
            "`models` must be a Keras model, or a dictionary of models by "
            f"name. Received: {models!r}"
        )
    if chosen is not None:
        raise ValueError(
            "`policies` must be None for several models, which are compared "
            f"as they are. Received: {chosen!r}"
        )
    for name, model in models.items():
        checks.instance("models", name, str, "a dictionary of models by name")
        _check(model)
    return dict(models)


def _check(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`models` must hold Keras models. Received: {model!r}")
    if not model.built:
        raise ValueError(
            "`models` must be built: call them once, or give them an input "
            f"shape. Received: {model.name!r}, which is not"
        )


def _in_policies(model: keras.Model, chosen: Any) -> dict[str, keras.Model]:
    """Returns copies of a model in float32 and in each policy."""
    _check(model)
    wanted = _wanted(chosen)
    made = {FLOAT32: _copied(model, FLOAT32)}
    if wanted is None:
        return {**made, AS_IT_IS: model}
    known: list[Any] = [FLOAT32]
    for policy in wanted:
        if any(map(functools.partial(_same, policy), known)):
            continue
        known.append(policy)
        made[_free(_name(policy), made)] = _copied(model, policy)
    return made


def _same(policy: Any, other: Any) -> bool:
    if policy is other:
        return True
    of_one_kind = type(policy) is type(other)
    compares = not isinstance(policy, policies.PrecisionMap)
    return of_one_kind and compares and bool(policy == other)


def _name(policy: Any) -> str:
    """Returns what a row is called: a policy's name, and its recipe."""
    name = getattr(policy, "name", str(policy))
    own = not isinstance(policy, str | policies.PrecisionMap)
    recipe = policies.recipe_of(policy) if own else None
    return name if recipe is None else f"{name}, {recipe}"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Returns a name that is not taken: of another the second gets a number."""
    free, number = name, 1
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _wanted(chosen: Any) -> Sequence[Any] | None:
    if chosen is None:
        return None
    if not isinstance(chosen, (list, tuple)) or not chosen:
        raise TypeError(
            "`policies` must be a list of policies, or of their names. "
            f"Received: {chosen!r}"
        )
    for policy in chosen:
        if not isinstance(policy, policies.PrecisionMap):
            policies.get(policy)  # says what is wrong with it
    return chosen


def _copied(model: keras.Model, policy: Any) -> keras.Model:
    """Returns a model with the same weights, converted as a whole.

    A layer that was made in float32 stays so, as `convert` has it.

    Raises:
        ValueError: if Keras cannot copy it, as a class without `get_config`.
    """
    told = {
        path: FLOAT32
        for path, layer in flatten(model).items()
        if layer_kinds.is_told(layer, FLOAT32)
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        try:
            model.save(path)
            with warnings.catch_warnings():  # of the optimizer, unused here
                warnings.simplefilter("ignore", UserWarning)
                copy = keras.saving.load_model(path, compile=model.compiled)
        except Exception as error:
            raise ValueError(
                "`models` must be a model that Keras can save and load, for "
                "copies in other policies; or pass a dictionary of models. "
                f"Received: {model.name!r}, of which Keras says: {error}"
            ) from error
    if told and not isinstance(policy, policies.PrecisionMap):
        policy = policies.PrecisionMap(told, policy)
    convert(copy, policy, filter="all")
    return copy
