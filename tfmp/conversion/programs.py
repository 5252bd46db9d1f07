"""Compiled programs that a change of precision makes stale, found and dropped.

A model keeps what it has traced: Keras' `train_function`, `test_function` and
`predict_function`, keras-hub's `generate_function`.  A layer that is changed
may be in several models, of which nobody tells the layer; so all models alive
are asked.  A `tf.function` of the user's own cannot be dropped: it is named.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfmp._core import custom_gradients
from tfmp._keras import layer_parts

FUNCTION = tf.types.experimental.PolymorphicFunction
OF_LIBRARIES = ("keras", "keras_hub", "keras_rs", "tensorflow", "tfmp")
STALE = (
    "tfmp: {name!r} ({where}) is a tf.function that was traced before the "
    "precision changed, and still runs in the old one. Make it anew: "
    "`tf.function({name}.python_function)`"
)


def holders(layers: Iterable[keras.Layer]) -> list[keras.Model]:
    """Returns the models alive that keep programs, and hold one of the layers.

    Programs that nobody keeps any longer go.

    Args:
        layers: that were changed.
    """
    custom_gradients.release()
    changed = {id(layer) for layer in layers}
    return [
        each
        for each in gc.get_objects()
        if issubclass(type(each), keras.Model)
        and _keeps_programs(each)
        and any(id(layer) in changed for layer in layer_parts.every_layer(each))
    ]


def drop(model: keras.Model) -> None:
    """Has what a model has compiled traced again, at its next use."""
    for name in _functions(model):
        if name in ("train_function", "test_function", "predict_function"):
            getattr(model, f"make_{name}")(force=True)
        else:
            delattr(model, name)  # TensorFlow would keep what it tracks
            setattr(model, name, None)  # as keras-hub's `compile` does


def warn_of_stale(layers: Iterable[keras.Layer]) -> None:
    """Warns of functions of the user's that layers were traced in."""
    variables = {id(v.value) for layer in layers for v in layer.variables}
    if not any(_uses(each, variables) for each in _traced()):
        return
    gc.collect()  # of those that nobody has any longer
    for each in _traced():
        if _uses(each, variables):
            warnings.warn(_said(each), RuntimeWarning, stacklevel=4)


def _keeps_programs(model: keras.Model) -> bool:
    own = vars(model)
    return bool(own.get("optimizer") or _functions(model)) and "_layers" in own


def _functions(model: keras.Model) -> list[str]:
    """Returns the attributes that hold what a method `make_<name>` compiled."""
    return [
        name
        for name, value in vars(model).items()
        if name.endswith("_function")
        and value is not None
        and callable(getattr(type(model), f"make_{name}", None))
    ]


def _traced() -> Iterator[Any]:
    """Yields the functions alive that no library made, once traced."""
    for each in gc.get_objects():
        if issubclass(type(each), FUNCTION):
            python = getattr(each, "python_function", None)
            module = getattr(python, "__module__", None) or ""
            if module.partition(".")[0] not in OF_LIBRARIES:
                yield each


def _uses(function: Any, variables: set[int]) -> bool:
    # What is traced, and no more: to ask TensorFlow for all concrete functions
    # traces one with an `input_signature`, which runs a user's code.
    cache = getattr(function, "_function_cache", None)
    every: Any = () if cache is None else cache.values()
    return any(id(v) in variables for each in every for v in each.variables)


def _said(function: Any) -> str:
    python = function.python_function
    code = getattr(python, "__code__", None)
    where = "no source"
    if code is not None:
        file = os.path.basename(code.co_filename)
        where = f"{file}:{code.co_firstlineno}"
    name = getattr(python, "__qualname__", repr(python))
    return STALE.format(name=name.rpartition(".")[2], where=where)
