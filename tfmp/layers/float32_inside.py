"""A layer that computes in float32 among code that computes in 16 bits."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import keras

from tfmp._keras import call_context, layer_calls

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object


class Float32Inside(Base):
    """Mixin for a layer of float32 that the code of another layer calls.

        y = cast(call(x), compute dtype of the layer around)

    Code written for one dtype, such as `x + self.softmax(x)`, then gets the
    dtype it is written for.  In a model of float32, and in a functional or a
    sequential one, whose layers cast what they get, nothing is cast.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Gives the class a `call` with the signature that it has without."""
        super().__init_subclass__(**kwargs)
        stock = super().call

        @functools.wraps(stock)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _as_around(self, stock(self, *args, **kwargs))

        cls.call = call


def _as_around(layer: keras.Layer, outputs: Any) -> Any:
    """Casts what a layer gives to what is usual around it."""
    caller = call_context.caller(layer)
    if caller is None or layer_calls.is_plain_graph(caller):
        return outputs
    if not _is_narrow(caller.compute_dtype):
        return outputs
    dtype = caller.compute_dtype
    return keras.tree.map_structure(lambda x: _cast(x, dtype), outputs)


def _is_narrow(dtype: str) -> bool:
    return dtype in ("bfloat16", "float16")


def _cast(x: Any, dtype: str) -> Any:
    """Casts a float tensor; others, and None, stay."""
    if not keras.ops.is_tensor(x) or x.dtype != "float32":
        return x
    return keras.ops.cast(x, dtype)
