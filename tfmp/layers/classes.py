"""Which class of tfmp stands for which class of Keras."""

from __future__ import annotations

import keras

from tfmp.layers.attention import GroupedQueryAttention, MultiHeadAttention
from tfmp.layers.convolution import Conv1D, Conv2D, Conv3D
from tfmp.layers.dense import Dense, EinsumDense
from tfmp.layers.normalization import BatchNormalization

OURS: dict[type, type] = {
    keras.layers.Dense: Dense,
    keras.layers.EinsumDense: EinsumDense,
    keras.layers.Conv1D: Conv1D,
    keras.layers.Conv2D: Conv2D,
    keras.layers.Conv3D: Conv3D,
    keras.layers.MultiHeadAttention: MultiHeadAttention,
    keras.layers.GroupQueryAttention: GroupedQueryAttention,
    keras.layers.BatchNormalization: BatchNormalization,
}
# What a class of tfmp does its own way; a subclass that does too is its own.
REPLACED = ("build", "call", "convolution_op", "kernel", "_compute_attention")


def stock_of(cls: type) -> type:
    """Returns the Keras class of a class of tfmp; any other as it is."""
    return {ours: stock for stock, ours in OURS.items()}.get(cls, cls)


def ours_for(cls: type) -> type | None:
    """Returns the class of tfmp that a class of Keras, or a subclass, has."""
    found = (OURS[base] for base in cls.__mro__ if base in OURS)
    return next(found, None)


def overridden(cls: type, stock: type | None = None) -> list[str]:
    """Returns what a subclass of a Keras layer does in its own way.

    Such a class cannot become one of tfmp: what it does would be lost.

    Args:
        cls: any class of layers.
        stock: the Keras class; by default the one that tfmp has a class for.
    """
    if stock is None:
        stock = next((base for base in cls.__mro__ if base in OURS), cls)
    if issubclass(cls, tuple(OURS.values())):
        return []
    return [
        name
        for name in REPLACED
        if getattr(cls, name, None) is not getattr(stock, name, None)
    ]
