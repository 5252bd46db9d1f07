"""Saving and loading that is whole: all of the state, or a clear error."""

from tfmp.checkpoints.compressed_tensors import load_safetensors
from tfmp.checkpoints.training_state import (
    all_or_nothing,
    keep_seeds,
    variables,
)
from tfmp.checkpoints.weights_files import (
    load_weights,
    read_notes,
    save_weights,
)

__all__ = [
    "all_or_nothing",
    "keep_seeds",
    "load_safetensors",
    "load_weights",
    "read_notes",
    "save_weights",
    "variables",
]
