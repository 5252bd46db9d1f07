"""Makes a Keras layer a tfmp layer, without making a new object.

The object stays what it was: its variables, name, path, connections and every
reference to it.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import keras

from tfmp._keras import internals


def swap(layer: keras.Layer, ours: type) -> None:
    """Gives a layer the class `ours`, and the FP8 state its policy asks for.

    One that is not built yet gets the state when it is; one of a subclass of
    the Keras layer becomes one of both.

    Args:
        layer: of the Keras class that `ours` extends, or of a subclass.
        ours: a class of `tfmp.layers`.
    """
    if not isinstance(layer, ours):
        layer.__class__ = combined(ours, type(layer))
    if layer.built:
        _update(layer)
    else:
        internals.after_build(layer, functools.partial(_update, layer))


def combined(*bases: Any) -> type:
    """Returns a class of several, under the name of the last one.

    It is the same while a layer is of it, and kept no longer.
    """
    if all(issubclass(bases[0], base) for base in bases):
        result: type = bases[0]
        return result
    if (found := _COMBINED.get(bases)) is not None:
        return found
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(bases[-1], name) for name in names}
    made = type(bases[-1].__name__, bases, body)
    _COMBINED[bases] = made
    return made


_COMBINED: weakref.WeakValueDictionary[Any, type] = (
    weakref.WeakValueDictionary()
)


def _update(layer: Any) -> None:
    if hasattr(layer, "update_float8"):
        layer.update_float8()
