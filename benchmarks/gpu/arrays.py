"""Arrays that a few words describe, so that gigabytes need not be carried.

A description is one of

    {"full": number}                    the same number everywhere
    {"values": [numbers]}               each number, flattened
    {"normal": std, "seed": n}          normal with this standard deviation
    {"below": high, "seed": n}          integers from 0, all alike often
    {"text": words, "seed": n, "skip": k}
                                        integers as often as words in a text,
                                        without the first k of each row

Needs NumPy and ml_dtypes, and neither TensorFlow nor JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

LISTED = 4096  # elements at most, of an array whose values are written down
Description = dict[str, Any]


def describe(value: np.ndarray, seed: int) -> Description:
    """Returns what makes an array like this one.

    One that is long, and not the same everywhere, is described by its
    standard deviation: another of the same distribution, if that is normal.
    """
    if value.size and (value == value.flat[0]).all():
        return {"full": value.flat[0].item()}
    if value.size <= LISTED:
        return {"values": [each.item() for each in value.flat]}
    return {"normal": float(np.std(value.astype("float32"))), "seed": seed}


def make(
    how: Description, shape: Sequence[int], dtype: str, number: int = 0
) -> np.ndarray:
    """Makes an array.

    Args:
        how: its description.
        shape: its lengths.
        dtype: name of its dtype, one of NumPy's or of ml_dtypes'.
        number: which of the arrays of this description: a batch of many.
    """
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    if "full" in how:
        return np.full(shape, how["full"], kind)
    if "values" in how:
        return np.array(how["values"], "float64").astype(kind).reshape(shape)
    key = np.array([how["seed"], number], np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))
    if "normal" in how:
        value = random.standard_normal(shape, "float32")
        return (value * np.float32(how["normal"])).astype(kind)
    if "below" in how:
        return random.integers(0, how["below"], shape).astype(kind)
    return _text(random, how, shape).astype(kind)


def _text(
    random: np.random.Generator, how: Description, shape: Sequence[int]
) -> np.ndarray:
    """Returns rows of one token more, without the first or the last.

    The n-th most frequent word of a text is about 1/n as frequent as the
    first (Zipf's law).
    """
    rows, length = shape
    ranks = np.exp(random.random([rows, length + 1]) * np.log(how["text"]))
    return ranks.astype("int64")[:, how["skip"] :][:, :length]
