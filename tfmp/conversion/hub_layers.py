"""What layers of keras-hub cannot do in 16 bits, with Keras alone neither."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfmp.conversion.defaults import Default
from tfmp.conversion.records import flatten, stock_class

ROUTER = Default(
    "float32",
    "its logits go into a loss of the layer around, which keras-hub computes "
    "in float32 and which fails in 16 bits with a padding mask",
)
MASK = "NaN, as its mask is 0 times -1e9, and that infinite"
# Each is seen to fail with Keras alone in tests/test_hub_layers.py.
OVERFLOWS = {
    "T5MultiHeadAttention": MASK,
    "T5GemmaEncoderLayer": MASK,
    "T5GemmaDecoderLayer": MASK,
    "T5Gemma2EncoderLayer": MASK,
    "T5Gemma2DecoderLayer": MASK,
    "RWKV7TimeMix": "NaN where keys are small, as it adds 1e-12, and that is 0",
}


def is_router(layer: keras.Layer, parent: keras.Layer | None) -> bool:
    """Whether a layer chooses the experts of a block that adds a loss."""
    block: Any = None if parent is None else _of_hub(parent)
    if block is None or not isinstance(layer, keras.layers.Dense):
        return False
    code = getattr(block.call, "__code__", None)
    adds = code is not None and "add_loss" in code.co_names
    return adds and layer.units == getattr(parent, "num_experts", None)


def overflows(model: keras.Layer) -> Iterator[str]:
    """Says which kinds of layers of a model are not finite in float16."""
    found: dict[str, int] = {}
    for layer in flatten(model).values():
        name = getattr(_of_hub(layer), "__name__", "")
        if name in OVERFLOWS and layer.compute_dtype == "float16":
            found[name] = found.get(name, 0) + 1
    for name, count in found.items():
        yield (
            f"{count} {name} in float16, with Keras alone too: "
            f"{OVERFLOWS[name]}; in mixed_bfloat16 it is finite"
        )


def _of_hub(layer: keras.Layer) -> type | None:
    """Returns the class of keras-hub that a layer is of, or extends."""
    bases = stock_class(layer).__mro__
    hub = (c for c in bases if c.__module__.partition(".")[0] == "keras_hub")
    return next(hub, None)
