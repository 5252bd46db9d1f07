"""What a converted layer was before, kept on the layer."""

from __future__ import annotations

import dataclasses

import keras

from tfmp._keras import layer_parts
from tfmp.layers import classes
from tfmp.layers.float8_state import Float8State


@dataclasses.dataclass
class Record:
    """What a layer was, and why it is what it is.

    Attributes:
        stock: its class before.
        policy: its policy before; None if not known, as of a loaded model.
        reason: why it has its precision, in words.
        keeps_inputs: whether it no longer casts its inputs, as it did before.
    """

    stock: type
    policy: keras.DTypePolicy | None
    reason: str = ""
    keeps_inputs: bool = False


def record_of(layer: keras.Layer) -> Record | None:
    """Returns the record of a converted layer, None of any other."""
    return getattr(layer, "tfmp_record", None)


def stock_class(layer: keras.Layer) -> type:
    """Returns the class that a layer has without tfmp."""
    record = record_of(layer)
    return record.stock if record else classes.stock_of(type(layer))


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the sublayers, but for FP8 state."""
    every = layer_parts.children(layer)
    return [child for child in every if not isinstance(child, Float8State)]


def flatten(layer: keras.Layer, name: str = "") -> dict[str, keras.Layer]:
    """Returns a layer and all below it by path, each layer once.

    A path is the names of the layers from the top, `model/block_1/dense`; of
    two layers with one path, the second gets a number.
    """
    found: dict[str, keras.Layer] = {}
    seen: set[int] = set()

    def visit(layer: keras.Layer, path: str) -> None:
        """Notes a layer and all below it."""
        if id(layer) in seen:
            return
        seen.add(id(layer))
        free, number = path, 1
        while free in found:
            free, number = f"{path}_{number}", number + 1
        found[free] = layer
        for child in sublayers(layer):
            visit(child, f"{free}/{child.name}")

    visit(layer, name or layer.name)
    return found
