"""The end of a layer's `build`, which Keras tells nobody of.

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
