"""What quantization did to a tensor, as one vector of sums and maxima.

The vector of a tensor is computed where it is quantized, from the values and
the scale at hand.  Two vectors merge into that of both tensors together, so
that layers that run twice, micro-batches, steps and replicas need no more than
`merge`; `describe` makes of it what people read.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfmp import formats, quantization, scaling

SUMS = ("values", "nonzero", "underflowed", "saturated", "signal", "noise")
MAXIMA = ("amax", "lag", "top", "negated_bottom")
LOWEST, BINS = -40, 64  # of the histogram: 2**-40 to 2**23
SUMMED = len(SUMS) + BINS
START = np.array([0.0] * SUMMED + [-math.inf] * len(MAXIMA), dtype=np.float32)


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
    kept = tf.where(low == 0, math.inf, tf.abs(low))
    nonzero = magnitude > 0
    sums = [
        tf.cast(tf.size(scaled), tf.float32),
        _count(nonzero),
        _count(nonzero & (low == 0)),
        _count(magnitude > target.max),
        tf.reduce_sum(tf.square(scaled)),
        tf.reduce_sum(tf.square(scaled - low)),
    ]
    best = scaling.scale_exponent(amax, target, margin)
    behind = tf.cast(_exponent(scale) - best, tf.float32)
    lag = tf.where(scaling.is_observed(amax), behind, -math.inf)
    maxima = [
        amax,
        lag,
        _log2(tf.reduce_max(tf.abs(low))),
        -_log2(tf.reduce_min(kept)),
    ]
    return tf.concat([sums, _histogram(magnitude), maxima], axis=0)


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


def _count(condition: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(condition, tf.float32))


def _exponent(x: tf.Tensor) -> tf.Tensor:
    """Returns `floor(log2(x))` of normal positive float32, as int32."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - 127


def _log2(x: tf.Tensor) -> tf.Tensor:
    """Returns `floor(log2(x))`, float32; -inf for 0 and inf for inf."""
    floor = tf.cast(_exponent(x), tf.float32)
    return tf.where(x == 0, -math.inf, tf.where(x == math.inf, x, floor))


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
        range_share       binades from the smallest to the largest q(x) that
                          is not zero / binades of the format
        lag               log2(scale / scale for the amax observed), in bits
        observed_amax     the amax

    Args:
        vector: of `measure`, or merged of some.
        target: the format they were measured for.

    Returns:
        Empty if nothing was measured.  NaN where there is no answer: of a
        tensor of zeros, and of one that is not finite.
    """
    part = dict(zip(SUMS, vector.tolist(), strict=False))
    part |= dict(zip(MAXIMA, vector[SUMMED:].tolist(), strict=True))
    if not part["values"]:
        return {}
    smallest = math.log2(target.min_subnormal)
    binades = target.max_exponent - smallest + 1
    used = max(part["top"] + part["negated_bottom"] + 1, 0.0)
    return {
        "observed_amax": part["amax"],
        "underflow_share": _ratio(part["underflowed"], part["nonzero"]),
        "saturation_share": _ratio(part["saturated"], part["values"]),
        "sqnr": _decibels(part["signal"], part["noise"]),
        "range_share": used / binades if part["nonzero"] else math.nan,
        "lag": part["lag"],
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


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _decibels(signal: float, noise: float) -> float:
    if noise == 0 and signal > 0:
        return math.inf
    if not math.isfinite(signal) or not signal:
        return math.nan
    return 10 * math.log10(signal / noise)
