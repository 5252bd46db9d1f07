"""What a conversion asks of a layer in its place: what it is in, what it is."""

from __future__ import annotations

import keras

from tfmp import policies
from tfmp._keras import layer_kinds
from tfmp.conversion import input_casts
from tfmp.conversion.defaults import SOFTMAX
from tfmp.conversion.records import stock_class


def told(layers: dict[str, keras.Layer]) -> set[str]:
    """Returns the layers that were made with `dtype="float32"`, or are in one.

    Not models that only hold layers, which hand their dtype to none.
    """
    found: set[str] = set()
    for path, layer in layers.items():
        holds = layer_kinds.is_container(layer)
        inside = path.rpartition("/")[0] in found
        if inside or (not holds and layer_kinds.is_told(layer, "float32")):
            found.add(path)
    return found


def parent_of(layers: dict[str, keras.Layer], path: str) -> keras.Layer | None:
    """Returns the layer that one is in, if it is among those given."""
    return layers.get(path.rpartition("/")[0])


def is_attention(parent: keras.Layer | None) -> bool:
    """Whether what is in a layer are projections of attention."""
    return parent is not None and "Attention" in stock_class(parent).__name__


def in_float32(
    reason: str, policy: keras.DTypePolicy, parent: keras.Layer | None
) -> tuple[keras.DTypePolicy, str]:
    """Returns float32, unless Keras' own code has a softmax as it needs it."""
    in_keras = (
        not is_open(parent) and parent and input_casts.is_of_keras(parent)
    )
    if in_keras and reason == SOFTMAX.reason:
        return policy, "a part of a layer of Keras"
    return policies.Policy("float32"), reason


def is_open(parent: keras.Layer | None) -> bool:
    """Whether what a sublayer returns goes to layers, which cast it."""
    return parent is None or layer_kinds.is_container(parent)


def is_conv(layer: keras.Layer) -> bool:
    """Whether it depends on the shapes if a GPU can do it in FP8."""
    return isinstance(
        layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    )


def has_precision(layer: keras.Layer) -> bool:
    """Whether a conversion sets the precision of such a layer.

    Not of integers and strings, of what Keras has quantized, nor of what only
    holds layers.
    """
    holds = layer_kinds.is_container(layer)
    if holds or isinstance(layer, keras.layers.InputLayer):
        return False
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    found: bool = keras.backend.is_float_dtype(layer.compute_dtype)
    return found
