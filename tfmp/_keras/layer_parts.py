"""What a layer consists of: sublayers, own variables, and the lock on both.

Keras locks a layer that is built, and lists its variables with those of its
sublayers only.  FP8 state comes and goes after that, and belongs to a layer's
own variables.  `tests/test_layers.py` and `tests/test_convert.py` tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

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


def replace_kernel(
    layer: keras.Layer, value: Any, trainable: bool, **arguments: Any
) -> None:
    """Gives a layer another variable for its kernel, of the same name.

    Args:
        layer: built.
        value: of the variable, with its shape and dtype.
        trainable: whether gradients change it.
        **arguments: those of `keras.Layer.add_weight`.
    """
    with unlocked(layer):
        layer._untrack_variable(layer._kernel)
        layer._kernel = _constant(layer, "kernel", value, trainable, arguments)
    # The first of its kind, as it was made: optimizers know them by order.
    owned = layer._trainable_variables
    if not trainable:
        owned = layer._non_trainable_variables
    owned.insert(0, owned.pop())


def set_constant(layer: keras.Layer, name: str, value: Any) -> None:
    """Sets an attribute to a new variable that nothing trains, or to None."""
    before = getattr(layer, name)
    with unlocked(layer):
        if before is not None:
            layer._untrack_variable(before)
        setattr(layer, name, None)
        if value is not None:
            setattr(layer, name, _constant(layer, name, value, False, {}))


def _constant(
    layer: keras.Layer,
    name: str,
    value: Any,
    trainable: bool,
    arguments: dict[str, Any],
) -> keras.Variable:
    return layer.add_weight(
        name=name,
        shape=tuple(value.shape),
        dtype=keras.backend.standardize_dtype(value.dtype),
        initializer=lambda shape, dtype: keras.ops.convert_to_tensor(value),
        trainable=trainable,
        autocast=trainable,
        **arguments,
    )
