"""Makes a Keras layer a tfmp layer, and back, without making a new object.

    swap(layer, ours)      layer.__class__ = ours, and the FP8 state that its
                           policy asks for; after `build` if not built yet
    unswap(layer, stock)   layer.__class__ = stock, no FP8 state

The object stays what it was: its variables, name, path, connections and every
reference to it.
"""

from __future__ import annotations

import functools
from typing import Any

import keras

from tfmp import internals
from tfmp.layers.contraction import Float8Layer


def swap(layer: keras.Layer, ours: type) -> None:
    """Gives a layer the class `ours`, a subclass of one of its own.

    A layer of a subclass of the Keras layer becomes one of both.

    Args:
        layer: of the Keras class that `ours` extends, or of a subclass.
        ours: a class of `tfmp.layers`.
    """
    if not isinstance(layer, ours):
        layer.__class__ = _both(ours, type(layer))
    if layer.built:
        _update(layer)
    else:
        internals.after_build(layer, functools.partial(_update, layer))


def unswap(layer: keras.Layer, stock: type) -> None:
    """Gives a layer the class `stock`; its FP8 state is gone."""
    if getattr(layer, "float8", None) is not None:
        internals.remove_child(layer, "float8")
    layer.__class__ = stock


@functools.lru_cache(maxsize=None)
def _both(ours: type, theirs: type) -> type:
    if issubclass(ours, theirs):
        return ours
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(theirs, name) for name in names}
    return type(theirs.__name__, (ours, theirs), body)


def _update(layer: Any) -> None:
    if isinstance(layer, Float8Layer):
        layer.update_float8()
