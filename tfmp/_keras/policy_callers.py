"""Who of Keras asks a policy for its name: told by the frame of the caller.

A policy of tfmp is more than its name, and Keras asks for no more.
"""

from __future__ import annotations

import types

import keras

_FROM_CONFIG = keras.Operation.from_config.__func__.__code__
_NEW_QUANTIZED = keras.dtype_policies.QuantizedDTypePolicy.__init__.__code__


def rebuilds(frame: types.FrameType | None) -> bool:
    """Whether a frame is that in which Keras rebuilds stock layers."""
    return frame is not None and frame.f_code is _FROM_CONFIG


def quantizes(frame: types.FrameType | None) -> bool:
    """Whether a frame is that of a layer's `quantize`, or its new policy's."""
    if frame is None or frame.f_code is _NEW_QUANTIZED:
        return frame is not None
    is_quantize = frame.f_code.co_name == "quantize"
    return is_quantize and isinstance(frame.f_locals.get("self"), keras.Layer)


def keras_name(policy: keras.DTypePolicy) -> str:
    """Returns the name of what a stock layer computes under, as Keras' own."""
    has_recipe = getattr(policy, "recipe", None) is not None
    return f"mixed_{policy.compute_dtype}" if has_recipe else policy.name
