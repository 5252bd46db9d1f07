"""A layer's class and its policy, and the one way to give it others.

Keras has no way to give a layer another class, and its setter of a policy
writes into a map of policies, which is then another one for all layers.  A
conversion needs the layer to stay the same object: its variables, name, path,
connections and every reference to it.  `tests/test_convert.py` tells whether
they do, `tests/test_quantizable.py` whether maps are left alone.

    assign       both, and nothing else
    become       both, with the FP8 state that goes with them
    kept         both come back after a block
    drop_float8  the state goes

`layer_calls` alone has classes of its own, for as long as a layer is watched.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from tfmp._keras import layer_builds, layer_parts


def assign(
    layer: keras.Layer, policy: keras.DTypePolicy, cls: type | None = None
) -> None:
    """Gives a layer a policy of its own, and a class.

    Args:
        layer: any layer, also one that had a map of policies.
        policy: of the layer from now on.
        cls: made by `combined` or `extended`, or one that the layer had; None
            for the one that it has.
    """
    layer._dtype_policy = policy
    if cls is not None:
        layer.__class__ = cls


def become(
    layer: keras.Layer, policy: keras.DTypePolicy, cls: type | None = None
) -> None:
    """Does as `assign`, and brings the layer's FP8 state in line with it.

    A layer that is not built yet gets its state when it is.
    """
    assign(layer, policy, cls)
    if layer.built:
        _update(layer)
    else:
        layer_builds.after_build(layer, functools.partial(_update, layer))


def _update(layer: keras.Layer) -> None:
    if hasattr(layer, "update_float8"):
        layer.update_float8()


@contextlib.contextmanager
def kept(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Gives layers class and policy back after the block, also if it fails."""
    before = [(each, each.dtype_policy, type(each)) for each in layers]
    try:
        yield
    finally:
        for layer, policy, cls in reversed(before):
            assign(layer, policy, cls)


def drop_float8(layer: keras.Layer) -> None:
    """Takes a layer's FP8 state off, if it has some."""
    if getattr(layer, "float8", None) is not None:
        layer.float8.recipe = None  # as the layer's variables know it
        layer_parts.remove_child(layer, "float8")


def extended(layer: keras.Layer, ours: type) -> type:
    """Returns the class of a layer with `ours` before it, if it has it not.

    Args:
        layer: of the Keras class that `ours` extends, or of a subclass.
        ours: a class of `tfmp.layers`, or a mixin.
    """
    cls = type(layer)
    return cls if issubclass(cls, ours) else combined(ours, cls)


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
