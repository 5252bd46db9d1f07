"""Making a layer, and calling it on symbols: what it does with its inputs.

Keras tells nobody of the end of an `__init__`, nor whether a layer casts what
it is called on, or what it was built for.  A conversion finds out by a call
on symbols.  `tests/test_kept_inputs.py` and `tests/test_traced_calls.py` tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.src.backend import AutocastScope
from keras.src.models.functional import Functional

from tfmp._keras import layer_parts


def is_plain_graph(layer: keras.Layer) -> bool:
    """Whether a layer only calls layers, which cast what they get."""
    return type(layer).call in (Functional.call, keras.Sequential.call)


def copy_mask(of: Any, to: Any) -> None:
    """Gives a tensor the mask that Keras put on another, if it did."""
    if getattr(of, "_keras_mask", None) is not None:
        to._keras_mask = of._keras_mask


def casts_inputs(layer: keras.Layer) -> bool:
    """Whether a layer casts what it is called on to its compute dtype."""
    return bool(layer.autocast and layer._convert_input_args)


def after_init(layer: keras.Layer, callback: Callable[[], None]) -> None:
    """Has `callback` run once, at the end of the layer's `__init__`.

    Args:
        layer: what `__new__` is about to return.
        callback: takes nothing.
    """
    cls: Any = type(layer)
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(cls, name) for name in names}
    vars(layer)["tfmp_after_init"] = callback
    layer.__class__ = type(cls.__name__, (_Watched, cls), body)


class _Watched(keras.Layer):
    """Before the class of a layer that is being made: gives it back."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Tells no class above that there is another one."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        self.__class__ = type(self).__mro__[2]
        callback = vars(self).pop("tfmp_after_init")
        self.__init__(*args, **kwargs)
        callback()


def dtypes_on(layer: keras.Layer, dtype: str) -> list[str] | None:
    """Returns the dtypes of what a layer's code gives on inputs of a dtype.

    It is run on symbols.  What it sets on itself, and on layers inside, is as
    it was afterwards.

    Args:
        layer: built.
        dtype: of its inputs.

    Returns:
        None if it does not run, or if the shapes of its inputs are not known.
    """
    shapes = (layer.get_build_config() or {}).get("input_shape")
    if shapes is None:
        return None
    symbols = _symbols(shapes, dtype)
    before = [(x, _own(x)) for x in layer_parts.every_layer(layer) if x.built]
    try:
        with AutocastScope(layer.compute_dtype):
            outputs = keras.Operation.compute_output_spec(layer, symbols)
    except Exception:
        return None
    finally:
        for each, attributes in before:
            for name in _own(each).keys() - attributes.keys():
                del vars(each)[name]
            vars(each).update(attributes)
    return [x.dtype for x in keras.tree.flatten(outputs) if x is not None]


def says_dtypes(layer: keras.Layer) -> bool:
    """Whether a layer says of what dtypes its inputs are, not only shapes."""
    return _graph(layer) is not None


def _graph(layer: keras.Layer) -> Any:
    """Returns a functional model, or that in a sequential one; else None."""
    if isinstance(layer, keras.Sequential):
        return layer._functional
    return layer if isinstance(layer, Functional) else None


def signature(
    layer: keras.Layer,
    fill: Callable[[Sequence[int | None]], Sequence[int]],
    dtype: str | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Returns symbols for what a layer was last built for, as arguments.

    Args:
        layer: built.
        fill: returns a shape with every length known.
        dtype: of its inputs, if it does not say: see `says_dtypes`.

    Raises:
        ValueError: if the layer is not built, or does not say what for.
    """

    def filled(symbol: Any) -> Any:
        """Returns a symbol with every length known."""
        if symbol is None:
            return None
        return keras.KerasTensor(
            fill(symbol.shape), symbol.dtype, symbol.sparse
        )

    graph = _graph(layer)
    if graph is not None:
        return [keras.tree.map_structure(filled, graph._inputs_struct)], {}
    if not layer.built:
        raise ValueError("it is not built yet")
    config = layer.get_build_config() or {}
    named, one = config.get("shapes_dict"), config.get("input_shape")
    if not named and one is None:
        raise ValueError(f"'{layer.name}' does not say what it takes")
    symbols = _symbols(named or [one], dtype or layer.input_dtype)
    symbols = keras.tree.map_structure(filled, symbols)
    if not named:
        return symbols, {}
    return [], {name.removesuffix("_shape"): x for name, x in symbols.items()}


def _own(layer: keras.Layer) -> dict[str, Any]:
    """Returns what a layer keeps beside its state: what its code may set."""
    state = (keras.Layer, keras.Variable, list, dict, set, tuple)
    return {
        name: value
        for name, value in vars(layer).items()
        if not name.startswith("_") and not isinstance(value, state)
    }


def _symbols(shapes: Any, dtype: str) -> Any:
    if isinstance(shapes, dict):
        return {key: _symbols(each, dtype) for key, each in shapes.items()}
    if all(length is None or isinstance(length, int) for length in shapes):
        return keras.KerasTensor(tuple(shapes), dtype)
    return [_symbols(each, dtype) for each in shapes]
