"""How `sweep_checks.py` compares models, and says what went wrong."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp.conversion.records import flatten


def words(error: Exception) -> str:
    r"""Returns the kind of an error, and the first line that says something.

    >>> words(ValueError("Exception encountered when calling X.\n\nno"))
    'ValueError: no'
    """
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    empty = "Exception encountered", "Graph execution error", "Detected at"
    said = [x for x in lines if not x.startswith(empty)]
    return f"{type(error).__name__}: {(said or [''])[0][:200]}"


def nature(model: keras.Model) -> list[Any]:
    """Returns what each layer is."""
    every = flatten(model).items()
    return [(path, type(each), each.dtype_policy) for path, each in every]


def distance(output: tf.Tensor) -> tf.Tensor:
    """Returns a loss of any output: half its squared distance to a target."""
    target = np.random.default_rng(3).random(output.shape, "float32")
    return tf.reduce_sum(tf.square(output - target)) / 2


def joined(tensors: list[tf.Tensor]) -> np.ndarray:
    """Returns all values of some tensors, one after the other."""
    return np.concatenate([np.ravel(each.numpy()) for each in tensors])


def decibel(expected: np.ndarray, found: np.ndarray) -> str:
    """Returns the ratio of signal and noise.

    >>> decibel(np.array([10.0, 0.0]), np.array([10.0, 1.0]))
    '20'
    """
    expected = expected.astype("float64")
    noise = np.sum(np.square(expected - found))
    signal = np.sum(np.square(expected))
    if noise == 0:
        return "same"
    return f"{10 * np.log10(signal / noise):.0f}" if signal else "0"


def same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Raises an error unless two lists of arrays are the same, bit for bit."""
    for each, its in zip(one, other, strict=True):
        np.testing.assert_array_equal(each, its)
