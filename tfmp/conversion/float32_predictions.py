"""Has the metrics of `compile` get predictions in float32.

Keras casts labels and predictions to float32 for a loss that `compile` is
given, as a class, a name or a function.  A metric gets predictions in the
model's compute dtype, and most of Keras' own cast the labels to that:

    metric(y_true, y_pred)    bfloat16: |100300 - 100000| is 512 - 0
"""

from __future__ import annotations

import functools
from typing import Any

import keras

from tfmp import policies
from tfmp._keras import layer_calls, layer_parts

NARROW = ("bfloat16", "float16")


def in_float32(predictions: Any) -> Any:
    """Casts tensors of 16 bits in a structure to float32, masks kept.

    >>> x = keras.ops.ones([2], "bfloat16")
    >>> [each.dtype for each in in_float32([x, None])[:1]]
    [tf.float32]
    """
    return keras.tree.map_structure(_wide, predictions)


def uses_tfmp(layer: keras.Layer) -> bool:
    """Whether a layer, or one inside, has a policy of tfmp.

    >>> uses_tfmp(keras.layers.Dense(1, dtype=policies.get("float16")))
    True
    """
    return any(
        isinstance(policies.of_layer(each), policies.Policy)
        for each in layer_parts.every_layer(layer)
    )


def install() -> None:
    """Has `compute_metrics` of all Keras models look at the layers."""
    owners = [c for c in keras.Model.__mro__ if "compute_metrics" in vars(c)]
    stock = owners[0].compute_metrics

    @functools.wraps(stock)
    def compute_metrics(
        self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        if _has_narrow(y_pred) and uses_tfmp(self):
            y_pred = in_float32(y_pred)
        return stock(self, x, y, y_pred, sample_weight)

    owners[0].compute_metrics = compute_metrics


def _has_narrow(predictions: Any) -> bool:
    return any(map(_is_narrow, keras.tree.flatten(predictions)))


def _is_narrow(x: Any) -> bool:
    if not hasattr(x, "dtype"):
        return False
    return keras.backend.standardize_dtype(x.dtype) in NARROW


def _wide(x: Any) -> Any:
    if not _is_narrow(x):
        return x
    wide = keras.ops.cast(x, "float32")
    layer_calls.copy_mask(x, wide)
    return wide
