"""Who of Keras asks a policy for its name: told by the frame of the caller.

A policy of tfmp is more than its name, and Keras asks for no more: it rebuilds
a stock layer, and quantizes one, by the name alone.  `tests/test_policies.py`
and `tests/test_quantizable.py` tell.
"""

from __future__ import annotations

import functools
import types
from typing import Any, NamedTuple

import keras

from tfmp._keras import frames


class Asking(NamedTuple):
    """Who asks for a name.

    Attributes:
        rebuilds: whether Keras does, to rebuild a stock layer.
        quantizes: whether a layer's `quantize` does, or its new policy.
        who: what that is a method of.
    """

    rebuilds: bool = False
    quantizes: bool = False
    who: Any = None


def of_name() -> Asking:
    """Returns who asks for the name that the property is about to return."""
    frame = frames.caller(2)
    if frame is None:
        return Asking()
    rebuilds, new_quantized = _of_keras()
    if frame.f_code is rebuilds:
        return Asking(rebuilds=True)
    if frame.f_code is new_quantized or _is_quantize(frame):
        return Asking(quantizes=True, who=frame.f_locals["self"])
    return Asking()


@functools.cache
def _of_keras() -> tuple[types.CodeType, types.CodeType]:
    """Returns the code that rebuilds a stock layer, and of a quantized policy.

    Read when a policy is first asked for its name, not at import.
    """
    rebuilds: Any = keras.Operation.from_config
    quantized: Any = keras.dtype_policies.QuantizedDTypePolicy.__init__
    return rebuilds.__func__.__code__, quantized.__code__


def _is_quantize(frame: types.FrameType) -> bool:
    is_quantize = frame.f_code.co_name == "quantize"
    return is_quantize and isinstance(frame.f_locals.get("self"), keras.Layer)


def keras_name(policy: keras.DTypePolicy) -> str:
    """Returns the name of what a stock layer computes under, as Keras' own."""
    has_recipe = getattr(policy, "recipe", None) is not None
    return f"mixed_{policy.compute_dtype}" if has_recipe else policy.name
