"""Layers that only hold layers, and what they do to their inputs.

Keras has every layer cast its inputs to its compute dtype.  A model without
weights of its own would so round prices, or ids, before they reach the layer
that takes them as they are.  Each layer inside casts what it needs itself; so
such a model keeps its inputs, unless its own code carries their dtype on, as
that of `x + self.dense(x)`: there it would compute in float32 from then on,
or, in TensorFlow's operators, not at all.
"""

from __future__ import annotations

import keras
from keras import layers

from tfmp._keras import graph_nodes, layer_calls, layer_kinds, layer_parts
from tfmp.conversion.records import flatten, record_of, stock_class, sublayers

NARROW = ("bfloat16", "float16")


def keep_below(top: keras.Layer, outermost: bool) -> None:
    """Has built layers, from one downwards, keep the inputs they only hand on.

    Args:
        top: may hold some that are not built yet, which are left for later.
        outermost: as for `keep`, of `top`.
    """
    every = flatten(top)
    for path, layer in reversed(every.items()):
        parent = every.get(path.rpartition("/")[0])
        keep(layer, layer_kinds.is_container(parent) if parent else outermost)


def keep(layer: keras.Layer, outermost: bool) -> None:
    """Has a layer keep its inputs, if it only holds layers.

    Args:
        layer: any layer.
        outermost: whether its inputs may be what the user gives.
    """
    if not layer.built or not _only_holds(layer):
        return
    asked = outermost and not is_of_keras(layer)
    if _needs_inputs(layer):
        keeps = not _needs_one_dtype(layer)
    else:
        keeps = asked and _gives_the_same(layer)
    if keeps:
        keep_now(layer)


def keep_now(layer: keras.Layer) -> None:
    """Has a layer keep its inputs, and notes it on a converted one."""
    layer.autocast = False
    if (record := record_of(layer)) is not None:
        record.keeps_inputs = True


def cast_again(layer: keras.Layer) -> None:
    """Has a layer with a record cast its inputs if it did before."""
    record = record_of(layer)
    if record is not None and record.keeps_inputs:
        layer.autocast = True


def rounded_for(layer: keras.Layer, above: list[keras.Layer]) -> str | None:
    """Says what rounds the data that a layer prepares in float32, if any.

    Args:
        layer: any layer.
        above: the layers that it is in, the nearest last.
    """
    if layer.compute_dtype != "float32" or not _takes_data(layer):
        return None
    casting = [each for each in above if _casts(each)]
    given = [x for each in (*above, layer) for x in graph_nodes.before(each)]
    for first in (*casting, *filter(_is_narrow, given)):
        return f"its inputs come through '{first.name}' in {_dtype(first)}"
    return None


def feeds_preparation(layer: keras.Layer) -> bool:
    """Whether a layer without weights gives what a layer behind prepares."""
    if layer.weights:
        return False
    following = graph_nodes.behind(layer)
    return any(
        _takes_data(x) or _needs_inputs(x) or feeds_preparation(x)
        for x in following
        if isinstance(x, keras.Layer)
    )


def _only_holds(layer: keras.Layer) -> bool:
    """Whether it casts its inputs, only to hand them to layers inside."""
    if layer_parts.own_weights(layer) or not sublayers(layer):
        return False
    return _casts(layer) and not layer_kinds.is_preprocessing(layer)


def _casts(layer: keras.Layer) -> bool:
    return _is_narrow(layer) and layer_calls.casts_inputs(layer)


def _is_narrow(operation: keras.Operation) -> bool:
    return _dtype(operation) in NARROW


def _dtype(operation: keras.Operation) -> str | None:
    return getattr(operation, "compute_dtype", None)


def is_of_keras(layer: keras.Layer) -> bool:
    """Whether a layer's code is Keras' own, or of tfmp."""
    package = stock_class(layer).__module__.partition(".")[0]
    return package in ("keras", "tfmp")


def _needs_inputs(layer: keras.Layer) -> bool:
    """Whether it holds a layer that 16 bits would spoil the inputs of."""
    return any(map(_takes_data, list(flatten(layer).values())[1:]))


def _takes_data(layer: keras.Layer) -> bool:
    """Whether it takes numbers as they are: prices to prepare, or ids."""
    looks_up = isinstance(layer, layers.Embedding)
    return looks_up or layer_kinds.is_preprocessing(layer)


def _needs_one_dtype(layer: keras.Layer) -> bool:
    """Whether its code runs on inputs of its compute dtype, and no others."""
    wide = layer_calls.dtypes_on(layer, "float32")
    narrow = layer_calls.dtypes_on(layer, layer.compute_dtype)
    return wide is None and narrow is not None


def _gives_the_same(layer: keras.Layer) -> bool:
    """Whether its code gives the same dtypes on inputs of float32."""
    wide = layer_calls.dtypes_on(layer, "float32")
    narrow = layer_calls.dtypes_on(layer, layer.compute_dtype)
    return wide is not None and wide == narrow
