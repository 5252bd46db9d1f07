"""What tables and pictures show, measured with the library's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfmp import formats, ops

TF32 = formats.Format("TF32", "float32", 8, 10)
FORMATS = {
    "float32": formats.FLOAT32,
    "TF32": TF32,
    "float16": formats.FLOAT16,
    "bfloat16": formats.BFLOAT16,
    "E4M3": formats.E4M3,
    "E5M2": formats.E5M2,
}
VALUES = 2**17  # samples of a distribution


def round_to(x: Any, target: formats.Format, scale: float = 1.0) -> np.ndarray:
    """Rounds float32 values to a format and back.

    FP8 saturates, as in a layer of tfmp; the others overflow to infinity.
    TF32 is no dtype: the ten bits of its mantissa are rounded here.

    Args:
        x: float32 values of any shape.
        target: one of `FORMATS`.
        scale: applied before, removed after.

    >>> round_to([1.0, 1.1, 1e6], formats.E4M3).tolist()
    [1.0, 1.125, 448.0]
    >>> round_to([1.0 + 2**-10, 1.0 + 2**-11], TF32).tolist()
    [1.0009765625, 1.0]
    """
    x = tf.convert_to_tensor(x, tf.float32)
    if target in formats.FLOAT8:
        return ops.dequantize(ops.quantize(x, scale, target), scale).numpy()
    if target == TF32:
        return _to_tf32(x.numpy())
    return cast(x, target)


def _to_tf32(x: np.ndarray) -> np.ndarray:
    """Rounds to nearest, ties to even, on the bits of finite values."""
    lost = formats.FLOAT32.mantissa_bits - TF32.mantissa_bits
    bits = x.view(np.uint32)
    half = np.uint32(2 ** (lost - 1) - 1)
    even = (bits >> np.uint32(lost)) & np.uint32(1)
    return ((bits + half + even) & np.uint32(-(2**lost) % 2**32)).view(
        np.float32
    )


def normal(seed: int = 0) -> np.ndarray:
    """Returns values of a normal distribution of variance 1."""
    return tf.random.stateless_normal([VALUES], [seed, 1]).numpy()


def log_uniform(low: float, high: float) -> np.ndarray:
    """Returns values whose exponents are uniform from `low` to `high`."""
    exponents = tf.random.stateless_uniform([VALUES], [0, 2], low, high)
    return tf.pow(2.0, exponents).numpy()


def all_values(target: formats.Format) -> np.ndarray:
    """Returns every finite value of an FP8 format, from its 256 codes.

    >>> len(all_values(formats.E4M3)), len(all_values(formats.E5M2))
    (253, 247)
    """
    dtype = tf.dtypes.as_dtype(target.dtype).as_numpy_dtype
    values = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    return np.unique(values[np.isfinite(values)])


def cast(x: Any, target: formats.Format) -> np.ndarray:
    """Rounds as `tf.cast` does, which does not saturate."""
    return tf.cast(tf.cast(x, target.dtype), tf.float32).numpy()


def first(holds: Callable[[np.float32], bool]) -> float:
    """Returns the smallest positive normal float32 that something holds for.

    Args:
        holds: false up to a value, and true from there on.

    >>> first(lambda x: x >= 3)
    3.0
    """
    low, high = 0x00800000, 0x7F7FFFFF  # codes are in the order of values
    while low < high:
        middle = (low + high) // 2
        if holds(np.uint32(middle).view(np.float32)):
            high = middle
        else:
            low = middle + 1
    return float(np.uint32(low).view(np.float32))


def relative_error(x: np.ndarray, target: formats.Format) -> np.ndarray:
    """Returns `|round(x) - x| / |x|`, 1 where `x` is flushed to zero."""
    return np.abs(round_to(x, target) / x.astype(np.float64) - 1)


def top_scale(x: np.ndarray, target: formats.Format) -> float:
    """Returns the power of two that brings `x` to the top of a format."""
    return float(ops.compute_scale(ops.amax(x), target))
