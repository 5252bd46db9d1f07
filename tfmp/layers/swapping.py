"""Makes a Keras layer a tfmp layer, without making a new object.

The object stays what it was: its variables, name, path, connections and every
reference to it.
"""

from __future__ import annotations

import functools
from typing import Any

import keras

from tfmp import internals


def swap(layer: keras.Layer, ours: type) -> None:
    """Gives a layer the class `ours`, and the FP8 state its policy asks for.

    One that is not built yet gets the state when it is; one of a subclass of
    the Keras layer becomes one of both.

    Args:
        layer: of the Keras class that `ours` extends, or of a subclass.
        ours: a class of `tfmp.layers`.
    """
    if not isinstance(layer, ours):
        layer.__class__ = combined(ours, type(layer))  # type: ignore[arg-type]
    if type(layer) is ours:
        _let_quantize(layer)
    if layer.built:
        _update(layer)
    else:
        internals.after_build(layer, functools.partial(_update, layer))


@functools.cache
def combined(*bases: Any) -> type:
    """Returns a class of several, under the name of the last one."""
    if all(issubclass(bases[0], base) for base in bases):
        return bases[0]
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(bases[-1], name) for name in names}
    return type(bases[-1].__name__, bases, body)


def _update(layer: Any) -> None:
    if hasattr(layer, "update_float8"):
        layer.update_float8()


def _let_quantize(layer: Any) -> None:
    """Has Keras quantize a layer without a recipe as one of its own class.

    Keras binds `quantize` as a layer is made, and refuses other classes there.
    """
    bound = layer.quantize
    if hasattr(bound, "swapped"):
        return

    @functools.wraps(bound)
    def quantize(
        mode: Any = None, type_check: bool = True, config: Any = None
    ) -> None:
        refuse = type_check and getattr(layer, "recipe", None) is not None
        bound(mode=mode, type_check=refuse, config=config)

    quantize.swapped = True  # type: ignore[attr-defined]
    layer.quantize = quantize
