"""The names that a monitor gives to what quantizes in a model."""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfmp import recipes
from tfmp.conversion.records import flatten
from tfmp.layers.float8_state import all_states
from tfmp.layers.probe_mixin import Measured
from tfmp.version import VERSION


class Operator(NamedTuple):
    """A product, and its gradients, of a layer.

    Attributes:
        layer: that it belongs to.
        name: in the layer, "" for the only one.
        recipe: that it runs by.
    """

    layer: Any
    name: str
    recipe: recipes.Recipe


def operators(model: keras.Model) -> dict[str, Operator]:
    """Returns all that quantizes in a model, by the path of the layer.

    A layer that is not built yet is left out, and what is emulated: nothing
    of it is in FP8.  Attention has two of its own:
    `<path>/scores` and `<path>/values`.
    """
    names = layer_names(model)
    found: dict[str, Operator] = {}
    for layer in filter(_is_measured, flatten(model).values()):
        for name, recipe in layer.float8_operators().items():
            if recipe.emulates:
                continue
            path = f"{layer.path}/{name}" if name else layer.path
            if not name and layer.float8 is not None:
                path = names.get(id(layer.float8), path)
            found[_free(path, found)] = Operator(layer, name, recipe)
    return found


def _is_measured(layer: keras.Layer) -> bool:
    return layer.built and isinstance(layer, Measured)


def layer_names(model: keras.Model) -> dict[int, str]:
    """Returns the path of the layer of each FP8 state, by the state's id.

    Two layers of the same name, of two parents, may have the same path: the
    second gets a number.
    """
    names: dict[int, str] = {}
    for state in all_states(model):
        path = state.variable.path.removesuffix("/float8/amax")
        names[id(state)] = _free(path, names.values())
    return names


def _free(path: str, taken: Container[str]) -> str:
    """Returns a path with a number behind it if it is taken."""
    free, number = path, 0
    while free in taken:
        number += 1
        free = f"{path}_{number}"
    return free


def describe(model: keras.Model, every: int) -> dict[str, Any]:
    """Returns what samples of a model are of, as JSON-serialisable values.

    Args:
        model: built.
        every: steps between two samples.
    """
    return {
        "model": model.name,
        "tfmp": VERSION,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "started": time.time(),
        "every": every,
        "tensors": {
            f"{path}/{role}": _tensor(operator.recipe, role)
            for path, operator in operators(model).items()
            for role in filter(operator.recipe.quantizes, recipes.ROLES)
        },
    }


def _tensor(recipe: recipes.Recipe, role: str) -> dict[str, str]:
    scaling = "delayed" if recipe.is_delayed(role) else "current"
    if not recipe.observes:
        scaling = "static"
    return {"format": recipe.format(role).name, "scaling": scaling}
