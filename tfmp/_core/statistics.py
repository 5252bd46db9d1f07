"""What quantization did to a tensor, as one vector of sums and maxima.

The vector of a tensor is computed where it is quantized, from the values and
the scale at hand.  Two vectors merge into that of both tensors together, so
that layers that run twice, micro-batches, steps and replicas need no more than
`merge`; `describe` makes of it what people read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmp import formats
from tfmp._core import quantization, scaling

SUMS = ("values", "underflowed", "saturated", "signal", "noise")
MAXIMA = ("amax", "lag")
LOWEST, BINS = -40, 64  # of the histogram: 2**-40 to 2**23
SUMMED = len(SUMS) + BINS
START = np.array([0.0] * SUMMED + [-math.inf] * len(MAXIMA), dtype=np.float32)


class Seen(NamedTuple):
    """What was observed of a tensor that was quantized.

    Attributes:
        amax: the largest magnitude in it.
        statistics: what `measure` gave, None if not asked for.
    """

    amax: tf.Tensor
    statistics: tf.Tensor | None = None


def measure(
    x: tf.Tensor,
    scale: tf.Tensor,
    target: formats.Format,
    amax: tf.Tensor,
    margin: int = 0,
    elements: int | None = None,
) -> tf.Tensor:
    """Returns the statistics of quantizing a tensor.

    Args:
        x: floating-point tensor of any shape.
        scale: float32 scalar, a power of two.
        target: the FP8 format.
        amax: the largest magnitude in `x`, float32 scalar.
        margin: of the recipe.
        elements: how many elements to look at, about: whole rows, evenly
            spread.  None for all.

    Returns:
        float32 vector of the length of `START`.
    """
    scaled = tf.cast(rows(x, elements), tf.float32) * scale
    magnitude = tf.abs(scaled)
    low = tf.cast(quantization.quantize(scaled, 1.0, target), tf.float32)
    terms = [
        tf.cast((magnitude > 0) & (low == 0), tf.float32),
        tf.cast(magnitude > target.max, tf.float32),
        tf.square(scaled),
        tf.square(scaled - low),
    ]
    # One reduction for all: on a GPU each would be a kernel of its own.
    terms = tf.reshape(tf.stack(terms), [len(terms), -1])
    sums = tf.reduce_sum(terms, axis=1)
    best = scaling.scale_exponent(amax, target, margin)
    behind = tf.cast(_exponent(scale) - best, tf.float32)
    lag = tf.where(scaling.is_observed(amax), behind, -math.inf)
    size = tf.cast(tf.size(scaled), tf.float32)
    parts = [[size], sums, _histogram(magnitude), [amax, lag]]
    return tf.concat(parts, axis=0)


def merge(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns the statistics of two tensors together."""
    summed = first[:SUMMED] + second[:SUMMED]
    largest = tf.maximum(first[SUMMED:], second[SUMMED:])
    return tf.concat([summed, largest], axis=0)


def rows(x: tf.Tensor, elements: int | None) -> tf.Tensor:
    """Returns rows of a tensor, evenly spread.

    An odd stride meets every position of a sequence whose length is a power
    of two, and whole rows hold every channel.

    Args:
        x: tensor of any shape.
        elements: how many elements to return, about; None for all.

    Returns:
        Tensor of shape `[some, last axis of x]`, or `x` itself.
    """
    if elements is None or x.shape.rank == 0:
        return x
    every = tf.reshape(x, [-1, x.shape[-1] or tf.shape(x)[-1]])
    stride = tf.bitwise.bitwise_or(tf.size(x) // elements, 1)
    return every[::stride]


def _exponent(x: tf.Tensor) -> tf.Tensor:
    """Returns `floor(log2(x))` of normal positive float32, as int32."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - 127


def _histogram(magnitude: tf.Tensor) -> tf.Tensor:
    """Counts the exponents of what is not zero."""
    bins = tf.clip_by_value(_exponent(magnitude) - LOWEST, 0, BINS - 1)
    bins = tf.where(magnitude > 0, bins, -1)
    ones = tf.ones_like(magnitude)
    return tf.math.unsorted_segment_sum(ones, bins, BINS)


def describe(vector: np.ndarray, target: formats.Format) -> dict[str, float]:
    """Returns what a vector says, by name.

        underflow_share   non-zero values flushed to zero / non-zero values
        saturation_share  values clipped / values
        sqnr              10 * log10(sum(x**2) / sum((x - q(x))**2)), in dB
        range_share       binades of the format from the smallest to the
                          largest abs(x) * scale in its range / all of them
        lag               log2(scale / scale for the amax observed), in bits
        observed_amax     the amax

    Args:
        vector: of `measure`, or merged of some.
        target: the format they were measured for.

    Returns:
        Empty if nothing was measured.  NaN where there is no answer: of a
        tensor of zeros, and of one that is not finite.
    """
    part = dict(zip(SUMS, vector[: len(SUMS)].tolist(), strict=True))
    part |= dict(zip(MAXIMA, vector[SUMMED:].tolist(), strict=True))
    if not part["values"]:
        return {}
    nonzero = float(vector[len(SUMS) : SUMMED].sum())
    return {
        "observed_amax": part["amax"],
        "underflow_share": _ratio(part["underflowed"], nonzero),
        "saturation_share": _ratio(part["saturated"], part["values"]),
        "sqnr": _decibels(part["signal"], part["noise"]),
        "range_share": _in_use(vector, target) if nonzero else math.nan,
        "lag": part["lag"] if math.isfinite(part["lag"]) else math.nan,
    }


def histogram(vector: np.ndarray) -> tuple[int, list[int]]:
    """Returns the lowest exponent of a vector's histogram, and the counts.

    The exponents are `floor(log2(abs(x) * scale))` of the values that are not
    zero; the first and the last bin hold what lies beyond them, too.
    """
    counts = vector[len(SUMS) : SUMMED].astype(np.int64)
    there = np.flatnonzero(counts)
    if not len(there):
        return LOWEST, []
    first, last = int(there[0]), int(there[-1])
    return LOWEST + first, counts[first : last + 1].tolist()


def _in_use(vector: np.ndarray, target: formats.Format) -> float:
    """Returns the share of a format's binades that a histogram reaches over."""
    smallest = int(math.log2(target.min_subnormal))
    binades = target.max_exponent - smallest + 1
    first = len(SUMS) + smallest - LOWEST
    there = np.flatnonzero(vector[first : first + binades])
    return (int(there[-1] - there[0]) + 1) / binades if len(there) else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _decibels(signal: float, noise: float) -> float:
    if noise == 0 and signal > 0:
        return math.inf
    if not math.isfinite(signal) or not signal:
        return math.nan
    return 10 * math.log10(signal / noise)
