"""Kinds of layers that Keras' own code tells apart, and its API does not.

Layers that prepare data have a folder of Keras, and no base class; a model
that only holds layers is saved by these, any other by its arguments.
`tests/test_kept_inputs.py` and `tests/test_convert.py` tell.
"""

from __future__ import annotations

import inspect

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
    a clone, has each of them, so that nothing is known of its dtype.  Where
    `__init__` names them, as that of `keras.Layer` does, Keras keeps each of
    them anyway, and this is taken for what was said.
    """
    kept = getattr(layer, "_auto_config", None)
    given = {} if kept is None else kept.config
    named = inspect.signature(type(layer).__init__).parameters
    every = "trainable" in given and "trainable" not in named
    return given.get("dtype") == dtype and not every


def is_container(layer: keras.Layer) -> bool:
    """Whether a layer saves its sublayers one by one, as they are."""
    return type(layer) in (Functional, keras.Sequential)
