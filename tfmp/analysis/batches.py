"""The data of an analysis as a few batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

BATCH = 32  # samples of arrays in a batch, as of Keras' `fit`
SAID = (
    "arrays `(x, y)` or `(x, y, sample_weight)`, or an iterable of batches of "
    "these, such as a tf.data.Dataset"
)


class Batch(NamedTuple):
    """One batch, of tensors.

    Attributes:
        x: the inputs.
        y: the labels, or None.
        sample_weight: or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None

    @property
    def size(self) -> int:
        """How many samples it has."""
        return int(keras.tree.flatten(self.x)[0].shape[0])


def read(data: Any, samples: int) -> list[Batch]:
    """Returns the first batches of the data.

    Args:
        data: as `SAID` says; arrays are taken in batches of `BATCH`.
        samples: how many of arrays, at most; other batches stay whole, and
            there are no more once they have as many.

    Raises:
        TypeError: if the data are something else.
        ValueError: if there are none.
    """
    try:
        found: list[Batch] = []
        for part in _batches_of(data, samples):
            found.append(_tensors(part))
            if sum(batch.size for batch in found) >= samples:
                break
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`data` must be {SAID} ({error}). Received: {type(data)}"
        ) from error
    if not found:
        raise ValueError(
            f"`data` must be {SAID}, of one batch or more. "
            f"Received: {type(data)}, which has none"
        )
    return found


def _batches_of(data: Any, samples: int) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return (data[i] for i in range(data.num_batches or 0))
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        return _slices((data,), samples)
    if isinstance(data, tuple):
        return _slices(data, samples)
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise TypeError("it is neither")
    return iter(data)


def _slices(data: tuple[Any, ...], samples: int) -> Iterator[Any]:
    if not 1 <= len(data) <= 3:
        raise ValueError(f"a tuple of {len(data)}")
    lengths = {int(x.shape[0]) for x in _arrays(data)}
    if len(lengths) > 1:
        raise ValueError(f"arrays of different lengths, {sorted(lengths)}")
    end = min(samples, *lengths)
    for start in range(0, end, BATCH):
        part = slice(start, min(start + BATCH, end))
        yield keras.tree.map_structure(
            lambda x, part=part: None if x is None else x[part],
            data,
            none_is_leaf=True,
        )


def _arrays(data: Any) -> list[Any]:
    leaves = [x for x in keras.tree.flatten(data) if x is not None]
    if not leaves or not all(len(getattr(x, "shape", ())) for x in leaves):
        raise TypeError("arrays have a first axis of samples")
    return leaves


def _tensors(batch: Any) -> Batch:
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    x, *rest = (keras.tree.map_structure(_tensor, part) for part in parts)
    _arrays(x)
    return Batch(x, *rest)


def _tensor(leaf: Any) -> Any:
    if leaf is None or tf.is_tensor(leaf):
        return leaf
    array = np.asarray(leaf)
    if array.dtype == np.float64:
        array = array.astype(keras.config.floatx())
    return tf.convert_to_tensor(array)
