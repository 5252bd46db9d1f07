"""What a layer consists of: sublayers, own variables, and the lock on both.

Keras locks a layer that is built, and lists its variables with those of its
sublayers only.  FP8 state comes and goes after that, and belongs to a layer's
own variables.  `tests/test_layers.py` and `tests/test_convert.py` tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def unlocked(layer: keras.Layer) -> Iterator[None]:
    """Lets a built layer gain and lose variables and sublayers."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def remove_child(layer: keras.Layer, name: str) -> None:
    """Deletes an attribute that holds a sublayer."""
    with unlocked(layer):
        layer._tracker.untrack(getattr(layer, name))
        delattr(layer, name)


def children(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the sublayers in the order in which they were set."""
    return list(layer._layers)


def every_layer(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer and all below it, FP8 state among them, each once."""
    found: dict[int, keras.Layer] = {}
    waiting = [layer]
    while waiting:
        each = waiting.pop()
        if id(each) not in found:
            found[id(each)] = each
            waiting += reversed(children(each))
    return list(found.values())


def own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer itself, without its sublayers'."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def statistics(layer: keras.Layer) -> list[keras.Variable]:
    """Returns those of its own variables that no gradient ever changes."""
    return list(layer._non_trainable_variables)


def stored_kernel(layer: keras.Layer) -> keras.Variable:
    """Returns the variable of a kernel, without what LoRA adds to it."""
    return layer._kernel
