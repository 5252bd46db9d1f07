"""Scales of inputs from data, for layers of which training knows none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfmp._core import scaling

MOST_AT_ONCE = 32  # samples, of arrays
SAID = "what the model is called with, or a dataset of such batches"


def amax_of_inputs(
    model: keras.Layer, data: Any, layers: Mapping[str, Any]
) -> dict[str, float]:
    """Returns the amax of some layers' inputs, as the model runs on data.

    Args:
        model: built.
        data: inputs, or a dataset of batches.
        layers: by path.

    Raises:
        TypeError, ValueError: if `data` is not what the model takes, or a
            layer is not called, or sees what is not finite.
    """
    seen: dict[str, list[tf.Tensor]] = {path: [] for path in layers}
    for path, layer in layers.items():
        layer.calibration = lambda x, path=path: seen[path].append(
            scaling.amax(x)
        )
    try:
        for batch in _batches(data):
            model(batch, training=False)
    finally:
        for layer in layers.values():
            layer.calibration = None
    found = {path: float(max(each, default=0)) for path, each in seen.items()}
    for path, amax in found.items():
        if not scaling.is_observed(tf.constant(amax)):
            raise ValueError(
                f"`data` must reach the layer {path!r} with values that are "
                f"finite and not all zero. Received: an amax of {amax} there"
            )
    return found


def _batches(data: Any) -> Iterator[Any]:
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        every: Iterable[Any] = data
        if isinstance(data, keras.utils.PyDataset):
            every = (data[i] for i in range(len(data)))
        for item in every:
            yield keras.utils.unpack_x_y_sample_weight(item)[0]
        return
    try:
        arrays = keras.tree.map_structure(tf.convert_to_tensor, data)
        count = max(len(x) for x in keras.tree.flatten(arrays))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`data` must be {SAID} ({error}). Received: {data!r:.200}"
        ) from error
    for first in range(0, count, MOST_AT_ONCE):
        part = slice(first, first + MOST_AT_ONCE)
        yield keras.tree.map_structure(lambda x, part=part: x[part], arrays)
