"""The sizes of what a model is called on: given, or assumed where open."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._support import checks

Shape = tuple[int, ...]
SAID = "arrays, tensors, tf.TensorSpec, or lists or dictionaries of such"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What to assume for lengths that a model leaves open.

    Args:
        batch_size: of the first axis.
        length: of any other.

    Raises:
        TypeError: if one is not an integer.
        ValueError: if one is less than 1.
    """

    batch_size: int = 32
    length: int = 512

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, 1)
        checks.integer("length", self.length, 1)

    def fill(self, shape: Sequence[int | None]) -> Shape:
        """Returns the shape with every length known."""
        return tuple(
            (self.length if axis else self.batch_size) if n is None else n
            for axis, n in enumerate(shape)
        )

    def __str__(self) -> str:
        return f"batch {self.batch_size}, length {self.length}"


def specs_of(inputs: Any, sizes: Sizes) -> Any:
    """Returns `inputs` as specs of tensors, in the same structure.

    Args:
        inputs: arrays, tensors or specs; arrays are taken as `fit` does.
        sizes: for lengths that are open.

    Raises:
        TypeError, ValueError: if one is something else, or of no known rank.
    """

    def spec(leaf: Any) -> tf.TensorSpec:
        """Returns the spec of one array, without open lengths."""
        if not isinstance(leaf, tf.TensorSpec):
            leaf = _array(leaf)
        if leaf.shape.rank is None:
            raise ValueError(
                f"`inputs` must have a known rank. Received: {leaf!r}"
            )
        if leaf.shape.is_fully_defined():
            return leaf
        return tf.TensorSpec(sizes.fill(leaf.shape.as_list()), leaf.dtype)

    return keras.tree.map_structure(spec, inputs)


def _array(leaf: Any) -> tf.TensorSpec:
    """Returns the spec of an array or tensor; arrays as `fit` takes them."""
    if isinstance(leaf, tf.Tensor | tf.Variable):
        return tf.TensorSpec(leaf.shape, leaf.dtype)
    if isinstance(leaf, keras.Variable | keras.KerasTensor):
        return tf.TensorSpec(leaf.shape, leaf.dtype)
    array = np.asarray(leaf)
    if isinstance(leaf, int | float | str | bytes) or array.dtype.kind in "OUS":
        raise TypeError(f"`inputs` must be {SAID}. Received: {leaf!r:.200}")
    floating = np.issubdtype(array.dtype, np.floating)
    return tf.TensorSpec(
        array.shape, keras.config.floatx() if floating else array.dtype
    )
