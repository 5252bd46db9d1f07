"""Kinds of layers that Keras' own code tells apart, and its API does not.

Layers that prepare data have a folder of Keras, and no base class; a model
that only holds layers is saved by these, any other by its arguments.
`tests/test_kept_inputs.py` and `tests/test_convert.py` tell.
"""

from __future__ import annotations

import keras
from keras.src.models.functional import Functional
from keras.src.saving.keras_saveable import KerasSaveable as KerasSaveable


def is_preprocessing(layer: keras.Layer) -> bool:
    """Whether a layer prepares data, which 16 bits would spoil."""
    return is_preprocessing_class(type(layer))


def is_preprocessing_class(cls: type) -> bool:
    """Whether layers of a class prepare data."""
    return any(
        base.__module__.startswith("keras.src.layers.preprocessing")
        or base.__name__ == "PreprocessingLayer"  # of keras-hub
        for base in cls.__mro__
    )


def is_told(layer: keras.Layer, dtype: str) -> bool:
    """Whether who made a layer said its dtype, as far as Keras remembers.

    Keras keeps arguments that are numbers and strings.  A layer of a file, and
    a clone, has each of them, so that nothing is known of its dtype.
    """
    kept = getattr(layer, "_auto_config", None)
    given = {} if kept is None else kept.config
    return given.get("dtype") == dtype and "trainable" not in given


def is_container(layer: keras.Layer) -> bool:
    """Whether a layer saves its sublayers one by one, as they are."""
    return type(layer) in (Functional, keras.Sequential)
