"""What a model is called on, from its own inputs and their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from sweep_models import IMAGE, TOKENS, VOCABULARY

BATCH = 2
PADDED = 2  # tokens at the end that a padding mask leaves out

# Lengths that a model leaves open, where the usual ones do not fit.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "RWKV7Backbone": {"token_ids": (16,), "padding_mask": (16,)},
    "MoonshineBackbone": {
        "encoder_input_values": (1024, 1),
        "encoder_padding_mask": (1024,),
    },
    "WhisperBackbone": {"encoder_features": (16, 80)},
    "SAMBackbone": {
        "points": (1, 2),
        "labels": (1,),
        "boxes": (1, 2, 2),
        "masks": (1, 16, 16, 1),
    },
    "SAM3PromptableConceptBackbone": {"boxes": (1, 5), "box_labels": (1,)},
    "Gemma3Backbone": {"images": (1, 16, 16, 3)},
}
# Values that are not random: an example's, without the batch.
VALUES: dict[str, Any] = {
    "vision_indices": [1, 2, 3, 4],
    "vision_mask": [0, 1, 1, 1, 1, 0, 0, 0],
    "position_ids": list(range(TOKENS)),
    "mask_positions": [1, 3],
    "response_mask": [0, 0, 0, 0, 1, 1, 1, 1],
    "num_steps": 1,
}


def inputs(model: keras.Model, names: Sequence[str]) -> Any:
    """Returns a batch in the structure of a model's inputs.

    Args:
        model: a functional one.
        names: of the model and its backbone, as in `SHAPES`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        shapes |= SHAPES.get(name, {})
    random = np.random.default_rng(0)
    return keras.tree.map_structure(
        lambda each: _values(each, shapes, random), model.input
    )


def _values(
    tensor: Any, shapes: dict[str, tuple[int, ...]], random: Any
) -> np.ndarray:
    name = tensor.name
    shape = (BATCH, *shapes.get(name, _lengths(tensor.shape[1:])))
    if keras.backend.is_float_dtype(tensor.dtype):
        return random.random(shape, "float32")
    if name in VALUES:
        example = np.array(VALUES[name], tensor.dtype)
        return np.broadcast_to(example, (BATCH, *example.shape)).copy()
    if "mask" in name:
        mask = np.ones(shape, tensor.dtype)
        mask[..., -PADDED:] = 0
        return mask
    if "segment" in name or "labels" in name:
        return np.zeros(shape, tensor.dtype)
    return random.integers(1, VOCABULARY, shape).astype(tensor.dtype)


def _lengths(shape: Sequence[int | None]) -> tuple[int, ...]:
    """Returns a shape without open lengths: of a picture, or of a text."""
    usual = IMAGE if len(shape) == 3 and shape[-1] == 3 else TOKENS
    return tuple(usual if length is None else length for length in shape)
