"""The call of a layer that is running, and the dtype that it reads in.

Keras casts variables as they are read within a call, and keeps `training`,
and the layer that the user called, in a context of its own.  FP8 quantizes a
kernel from the dtype that it is stored in, and a convolution is not told of
`training`.  `tests/test_layers.py` and `tests/test_conv_layers.py` tell.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state

from tfmp._keras import frames


def uncast() -> Any:
    """Returns a scope in which variables are read in their own dtype."""
    return AutocastScope(None)


def training_of_call() -> bool | None:
    """Returns the `training` of the layer call that is running, if any."""
    context = global_state.get_global_attribute("current_call_ctx")
    return None if context is None else context.get_value("training")


def is_called_by_user(layer: keras.Layer) -> bool:
    """Whether the call that is running is not in code of another layer."""
    context = global_state.get_global_attribute("current_call_ctx")
    return context is None or context.entry_layer is layer


def caller(layer: keras.Layer) -> keras.Layer | None:
    """Returns the layer in whose call one is called just now, if any."""
    return frames.method_of(keras.Layer, but=layer)
