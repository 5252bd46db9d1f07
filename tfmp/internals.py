"""What Keras keeps to itself, and a library that converts models needs.

Every private name of Keras that tfmp uses is in this module.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state


def uncast() -> Any:
    """Returns a scope in which variables are read in their own dtype."""
    return AutocastScope(None)


def training_of_call() -> bool | None:
    """Returns the `training` of the layer call that is running, if any."""
    context = global_state.get_global_attribute("current_call_ctx")
    return None if context is None else context.get_value("training")


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


def after_build(layer: keras.Layer, callback: Callable[[], None]) -> None:
    """Has `callback` run once, after the layer's next `build`."""
    build = layer.build

    @functools.wraps(build)
    def build_then(*args: Any, **kwargs: Any) -> None:
        build(*args, **kwargs)
        if layer.build is build_then:
            layer.build = build
        callback()

    layer.build = build_then


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Returns the objects that `model.compile` was given, None if never."""
    config = getattr(model, "_compile_config", None)
    return None if config is None else dict(config.config)
