"""A layer's `build`: its end, which Keras tells nobody of, and whose it is.

What is not built yet is converted when it is, and gets its FP8 state then.
`tests/test_convert.py` tells: `test_a_model_that_is_built_later...`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras


def after_build(layer: keras.Layer, callback: Callable[[], None]) -> None:
    """Has `callback` run once, after the layer's next `build`.

    Several run in the order in which they came.
    """
    waiting = getattr(layer.build, "waiting", None)
    if waiting is not None:
        waiting.append(callback)
        return
    build = layer.build

    @functools.wraps(build)
    def build_then(*args: Any, **kwargs: Any) -> None:
        """Builds, and does what waits."""
        build(*args, **kwargs)
        layer.build = build
        while build_then.waiting:  # type: ignore[attr-defined]
            build_then.waiting.pop(0)()  # type: ignore[attr-defined]

    build_then.waiting = [callback]  # type: ignore[attr-defined]
    layer.build = build_then


def of_present_class(build: Callable[..., None]) -> Callable[..., None]:
    """Makes a method `build` follow a layer to the class that it gets.

    `keras.Layer.__new__` keeps the method of the class that the layer is made
    of.  After `revert` the layer is of another, which has another `build`.
    """

    @functools.wraps(build)
    def build_now(layer: keras.Layer, *args: Any, **kwargs: Any) -> None:
        bases = type(layer).__mro__
        is_own = any(vars(base).get("build") is build_now for base in bases)
        (build if is_own else type(layer).build)(layer, *args, **kwargs)

    return build_now
