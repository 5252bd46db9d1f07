"""Saturating conversion to FP8 and back, and measures of what it costs."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfmp import formats
from tfmp._core import scaling


def quantize(x: Any, scale: Any, dtype: Any) -> tf.Tensor:
    """Converts to FP8, scaled and saturated.

        q = fp8(clip(x * scale, -max, max))

    rounded to nearest, ties to even.  TensorFlow's own cast does not saturate:
    it gives NaN above 464 in E4M3 and infinity in E5M2.

    Args:
        x: floating-point tensor of any shape.
        scale: float32, a scalar or of a shape that broadcasts to that of `x`.
        dtype: an FP8 format: a `tfmp.formats.Format`, its name or dtype.

    Returns:
        Tensor of the FP8 dtype and of the shape of `x`.  NaN stays NaN,
        infinities become the largest finite value.

    Raises:
        TypeError: if `x` or `scale` is not floating-point.
        ValueError: if `dtype` is not an FP8 format.

    Source: arXiv 2209.05433, section 2 (casts to FP8).

    >>> q = quantize([1.0, 1e6], scale=2.0, dtype="E4M3")
    >>> tf.cast(q, tf.float32).numpy().tolist()
    [2.0, 448.0]
    """
    target = _float8(dtype)
    scaled = _scaled(x, scale)
    clipped = tf.clip_by_value(scaled, -target.max, target.max)
    return tf.cast(clipped, target.dtype)


def quantize_finite(x: tf.Tensor, scale: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Converts as `quantize`, but infinities become NaN.

    They are put in behind the clipping, in which XLA may drop NaN on a CPU.
    """
    target = _float8(dtype)
    scaled = _scaled(x, scale)
    clipped = tf.clip_by_value(scaled, -target.max, target.max)
    clipped = tf.where(tf.math.is_finite(scaled), clipped, math.nan)
    return tf.cast(clipped, target.dtype)


def dequantize(q: Any, scale: Any, dtype: Any = "float32") -> tf.Tensor:
    """Converts from FP8, with the scale removed: `q / scale`.

    Args:
        q: FP8 tensor of any shape.
        scale: float32, what `quantize` was given.
        dtype: a format of 16 bits or more: a `tfmp.formats.Format`, its name
            or dtype.

    Returns:
        Tensor of `dtype` and of the shape of `q`; exact if `scale` is a power
        of two, but where the quotient is subnormal or overflows in `dtype`.

    Raises:
        TypeError: if `q` is not FP8.
        ValueError: if `dtype` is an FP8 or unknown format.

    >>> float(dequantize(quantize(3.0, 4.0, "E5M2"), 4.0))
    3.0
    """
    target = formats.get_plain(dtype)
    if target.bits < 16:
        raise ValueError(
            "`dtype` must be a format of 16 bits or more. "
            f"Received: {target.name}"
        )
    q = scaling.as_tensor("q", q)
    if q.dtype.name not in [f.dtype for f in formats.FLOAT8]:
        raise TypeError(
            "`q` must be float8_e4m3fn or float8_e5m2. "
            f"Received: dtype {q.dtype.name}"
        )
    value = tf.cast(q, tf.float32) / fitting_scale(scale, q.shape)
    return tf.cast(value, target.dtype)


def sqnr(reference: Any, approximation: Any) -> tf.Tensor:
    """Returns the signal-to-quantization-noise ratio in dB.

        10 * log10(sum(x**2) / sum((x - y)**2))

    One outlier can hide the loss of all other values: read it beside
    `underflow_share`.

    Args:
        reference: floating-point tensor `x`.
        approximation: floating-point tensor `y` of the same shape.

    Returns:
        float32 scalar; infinite if the tensors are equal, NaN if either has
        a NaN or an infinity.

    Raises:
        TypeError: if an argument is not floating-point.
        ValueError: if the shapes differ.

    >>> round(float(sqnr([1.0, 2.0], [1.0, 2.1])), 1)
    27.0
    """
    x = tf.cast(scaling.as_float32("reference", reference), tf.float64)
    y = tf.cast(scaling.as_float32("approximation", approximation), tf.float64)
    if not x.shape.is_compatible_with(y.shape):
        raise ValueError(
            f"`approximation` must have the shape {x.shape} of `reference`. "
            f"Received: shape {y.shape}"
        )
    noise = tf.reduce_sum(tf.square(x - y))
    ratio = tf.reduce_sum(tf.square(x)) / noise
    decibels = 10.0 * tf.math.log(ratio) / math.log(10.0)
    infinite = tf.constant(math.inf, tf.float64)
    return tf.cast(tf.where(noise == 0, infinite, decibels), tf.float32)


def underflow_share(x: Any, scale: Any, dtype: Any) -> tf.Tensor:
    """Returns the share of non-zero values that `quantize` flushes to zero.

    Args:
        x: floating-point tensor.
        scale: float32, as for `quantize`.
        dtype: an FP8 format, as for `quantize`.

    Returns:
        float32 scalar from 0 to 1; 0 if `x` has no value other than zero.

    >>> float(underflow_share([0.0, 1e-9, 1.0], 1.0, "E4M3"))
    0.5
    """
    x = scaling.as_float32("x", x)
    zero = tf.cast(quantize(x, scale, dtype), tf.float32) == 0
    return _share(zero & (x != 0), x != 0)


def saturation_share(x: Any, scale: Any, dtype: Any) -> tf.Tensor:
    """Returns the share of values that `quantize` clips.

    Args:
        x: floating-point tensor.
        scale: float32, as for `quantize`.
        dtype: an FP8 format, as for `quantize`.

    Returns:
        float32 scalar from 0 to 1; a NaN is not clipped.

    >>> float(saturation_share([1.0, 500.0], 1.0, "E4M3"))
    0.5
    """
    scaled = _scaled(x, scale)
    return _share(tf.abs(scaled) > _float8(dtype).max, tf.ones_like(scaled) > 0)


def max_ulp_error(x: Any, scale: Any, dtype: Any) -> tf.Tensor:
    """Returns the largest rounding error of `quantize`, in ulp.

    An ulp is the distance between neighbours of the format at the value's
    binade, the subnormals' distance below the smallest normal value.  Rounding
    to nearest costs at most 0.5; more is saturation.

    Args:
        x: floating-point tensor.
        scale: float32, as for `quantize`.
        dtype: an FP8 format, as for `quantize`.

    Returns:
        float32 scalar; NaN values count as 0, an infinity as infinite.

    >>> float(max_ulp_error([1.0625, 2.0], 1.0, "E4M3"))
    0.5
    """
    target = _float8(dtype)
    scaled = _scaled(x, scale)
    value = tf.cast(quantize(scaled, 1.0, dtype), tf.float32)
    error = tf.abs(value - scaled) / _ulp(scaled, target)
    error = tf.where(tf.math.is_nan(error), 0.0, error)
    return tf.maximum(tf.reduce_max(error), 0.0)


def _scaled(x: Any, scale: Any) -> tf.Tensor:
    x = scaling.as_float32("x", x)
    return x * fitting_scale(scale, x.shape)


def fitting_scale(scale: Any, shape: tf.TensorShape) -> tf.Tensor:
    """Converts a scale to float32.

    Raises:
        TypeError: if it is not floating-point.
        ValueError: if it does not broadcast to `shape`.
    """
    scale = scaling.as_float32("scale", scale)
    if None in (shape.rank, scale.shape.rank):
        return scale
    padded = [1] * (shape.rank - scale.shape.rank) + scale.shape.as_list()
    fits = [
        s in (1, None, n) or n is None
        for s, n in zip(padded, shape, strict=False)
    ]
    if len(padded) > shape.rank or not all(fits):
        raise ValueError(
            f"`scale` must be a scalar, or broadcast to the shape {shape}. "
            f"Received: shape {scale.shape}"
        )
    return scale


def _ulp(x: tf.Tensor, target: formats.Format) -> tf.Tensor:
    bits = tf.bitcast(x, tf.int32) & 0x7F800000
    binade = tf.bitcast(bits, tf.float32)
    top = 2.0**target.max_exponent
    return tf.clip_by_value(binade, target.min_normal, top) * target.epsilon


def _share(part: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    counts = [tf.reduce_sum(tf.cast(t, tf.float32)) for t in (part, whole)]
    return tf.math.divide_no_nan(*counts)


def _float8(dtype: Any) -> formats.Format:
    target = formats.get_plain(dtype)
    if target not in formats.FLOAT8:
        raise ValueError(
            "`dtype` must be an FP8 format: "
            f"{', '.join(f.name for f in formats.FLOAT8)}; "
            "`tfmp.ops.emulate` rounds to any other. "
            f"Received: {target.name}"
        )
    return target
