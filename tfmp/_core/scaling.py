"""From the absolute maximum of a tensor to the scale that quantizes it.

    scale = 2**(floor(log2(max / amax)) - margin)

maps `amax` into the upper half of a format's range.  Scales are powers of
two, so that applying and removing them is exact (arXiv 2209.05433, section 2;
OCP Microscaling Formats 1.0, section 5.2 uses the same exponents).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfmp import formats, recipes
from tfmp._support import checks

MAX_AXES = 254  # of a TensorFlow tensor
INFINITY = 0x7F800000  # its bits
MAX_EXPONENT = 126  # of a scale: its inverse is a normal float32 too

# What to assume of a tensor that no step has seen yet, by role and format; a
# kernel can be looked at.
# Gradients get the range of E5M2 from 6e-8 to 448; E4M3 has a narrower one,
# and clipping a large gradient for one step loses less than a vanished one.
PRIOR_AMAX = {
    ("inputs", "E4M3"): 56.0,
    ("inputs", "E5M2"): 56.0,
    ("grads", "E4M3"): 0.21875,
    ("grads", "E5M2"): 448.0,
}


def amax(x: Any) -> tf.Tensor:
    """Returns the absolute maximum: `max(abs(x))`.

    A NaN counts as infinite: a maximum compiled by XLA may drop NaN.

    Args:
        x: floating-point tensor of any shape.

    Returns:
        float32 scalar; 0 for an empty tensor, infinite if `x` has an infinity
        or a NaN.

    Raises:
        TypeError: if `x` is not floating-point.

    >>> float(amax([1.0, -3.0]))
    3.0
    """
    return tf.maximum(tf.reduce_max(_magnitude(as_float32("x", x))), 0.0)


def joint_amax(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the largest `amax` of several tensors.

    Each is read once, to the maxima of its rows; these end in one maximum.
    """
    tops = []
    for x in tensors:
        magnitude = _magnitude(as_float32("tensors", x))
        rows = tf.reduce_max(magnitude, -1) if x.shape.rank else magnitude
        tops.append(tf.reshape(rows, [-1]))
    return tf.maximum(tf.reduce_max(tf.concat(tops, 0)), 0.0)


def _magnitude(x: tf.Tensor) -> tf.Tensor:
    """Returns `abs(x)`, infinite where `x` is NaN.

    By its bits, in which NaN is above infinity: `tf.abs` takes XLA 5 ms to
    lower, and a comparison would read `x` twice.
    """
    bits = tf.bitcast(x, tf.int32) & 0x7FFFFFFF
    return tf.bitcast(tf.minimum(bits, INFINITY), tf.float32)


def compute_scale(
    amax: Any, dtype: Any, margin: int = 0, power_of_two: bool = True
) -> tf.Tensor:
    """Returns the factor that brings `amax` to the top of a format.

        scale = max / amax * 2**-margin

    rounded down to a power of two unless told otherwise, and kept within
    2**-126 to 2**126.

    Args:
        amax: absolute maximum, float32 of any shape.
        dtype: the target format: a `tfmp.formats.Format`, its name or dtype.
        margin: powers of two to stay below the maximum, from 0 to 16.
        power_of_two: whether the scale is rounded down to a power of two.

    Returns:
        float32 of the shape of `amax`; 1 where `amax` is zero, subnormal,
        negative or not finite.

    Raises:
        TypeError: if `margin` or `power_of_two` has the wrong type.
        ValueError: if `margin` is out of range, or `dtype` unknown.

    >>> float(compute_scale(3.0, "E4M3"))
    128.0
    >>> float(compute_scale(3.5, "E4M3", margin=1))
    64.0
    """
    target = formats.get_plain(dtype)
    checks.integer("margin", margin, 0, 16)
    checks.boolean("power_of_two", power_of_two)
    amax = as_float32("amax", amax)
    if power_of_two:
        return exp2(scale_exponent(amax, target, margin))
    scale = tf.math.divide_no_nan(target.max * 2.0**-margin, amax)
    limit = 2.0**MAX_EXPONENT
    scale = tf.clip_by_value(scale, 1 / limit, limit)
    return tf.where(is_observed(amax), scale, tf.ones_like(scale))


def scale_of_role(
    recipe: recipes.Float8Recipe, role: str, amax: tf.Tensor
) -> tf.Tensor:
    """Returns the scale that a recipe gives a tensor of a role and amax."""
    static = recipe.static_scale(role)
    if static is not None:
        return tf.constant(static)
    return compute_scale(amax, recipe.format(role), recipe.margin)


def scale_exponent(
    amax: tf.Tensor,
    target: formats.Format | Sequence[formats.Format],
    margin: int,
) -> tf.Tensor:
    """Returns the exponent of `compute_scale`'s power of two.

        floor(log2(max / amax)) - margin

    Exact for every float32: it works on the exponent and mantissa fields.

    Args:
        amax: float32 of any shape.
        target: the format, or one for each entry of the last axis.
        margin: powers of two to stay below its maximum.

    Returns:
        int32 of the shape of `amax`, from -126 to 126; 0 where `amax` is not
        positive, normal and finite.
    """
    targets = [target] if isinstance(target, formats.Format) else target
    # What is added carries into the exponent if the mantissa is above.
    carry = [0x7FFFFF - _top_mantissa(t) for t in targets]
    top = [t.max_exponent - margin + 127 for t in targets]
    bits = tf.bitcast(amax, tf.int32) + _constant(carry)
    power = _constant(top) - tf.bitwise.right_shift(bits, 23)
    power = tf.clip_by_value(power, -MAX_EXPONENT, MAX_EXPONENT)
    return tf.where(is_observed(amax), power, 0)


def _top_mantissa(target: formats.Format) -> int:
    """Returns the mantissa field, as float32 has it, of the largest value."""
    fraction, _ = math.frexp(target.max)
    return int((2 * fraction - 1) * 2**23)


def _constant(values: list[int]) -> tf.Tensor:
    """Returns a vector, or a scalar if all are equal."""
    return tf.constant(values if len(set(values)) > 1 else values[0])


def exp2(exponent: tf.Tensor) -> tf.Tensor:
    """Returns `2**exponent` exactly, for float32's normal range.

    Args:
        exponent: int32, from -126 to 127.

    Returns:
        float32 of the same shape.
    """
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)


def is_observed(amax: tf.Tensor) -> tf.Tensor:
    """Whether an amax is usable: a positive, normal and finite float32.

    Compared as integers: whether a subnormal is above zero depends on who
    compares, as some flush it first.
    """
    bits = tf.bitcast(amax, tf.int32)
    return (bits >= 0x00800000) & (bits < 0x7F800000)


def assumed_amax(
    amax: tf.Tensor, role: str, target: formats.Format, observed: Any = None
) -> tf.Tensor:
    """Returns the amax that delayed scaling uses for a role.

    Args:
        amax: float32 of shape `[..., 3]`, one entry a role.
        role: `"inputs"`, `"kernel"` or `"grads"`.
        target: the role's format.
        observed: what to use where `amax` has no observation, float32 scalar;
            by default a prior for the role and format, or zero for a kernel.

    Returns:
        float32 of shape `[...]`.
    """
    known = amax[..., recipes.ROLES.index(role)]
    prior = PRIOR_AMAX.get((role, target.name), 0.0)
    otherwise = prior if observed is None else observed
    return tf.where(is_observed(known), known, otherwise)


def push(history: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
    """Puts an observation in front of a history and drops the oldest.

    Args:
        history: float32 of shape `[steps, ...]`, the newest first.
        observed: float32 of the shape of one step.
    """
    return tf.concat([observed[tf.newaxis], history[:-1]], axis=0)


def merge(history: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
    """Takes an observation into the newest step of a history, by maximum.

    Args:
        history: float32 of shape `[steps, ...]`, the newest first.
        observed: float32 of the shape of one step.
    """
    newest = tf.maximum(history[0], observed)
    return tf.concat([newest[tf.newaxis], history[1:]], axis=0)


def window_amax(history: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Returns the maximum of the steps that a window covers.

    Args:
        history: float32 of shape `[steps, tensors, ...]`.
        window: bool of shape `[steps, tensors]`.

    Returns:
        float32 of shape `[tensors, ...]`.
    """
    while window.shape.rank < history.shape.rank:
        window = window[..., tf.newaxis]
    return tf.reduce_max(tf.where(window, history, 0.0), axis=0)


def as_tensor(name: str, value: Any) -> tf.Tensor:
    """Converts an argument to a tensor.

    Raises:
        TypeError: if it does not convert.
        ValueError: if it is a list of more levels than a tensor has axes:
            TensorFlow ends the process there.
    """
    inner, depth = value, 0
    while isinstance(inner, (list, tuple)) and inner and depth <= MAX_AXES:
        inner, depth = inner[0], depth + 1
    if depth > MAX_AXES:
        raise ValueError(
            f"`{name}` must have {MAX_AXES} axes at most. "
            f"Received: {depth} levels of lists or more"
        )
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be a tensor, or convert to one. Received: {value!r}"
        ) from error


def as_float32(name: str, x: Any) -> tf.Tensor:
    """Converts to a float32 tensor.

    Raises:
        TypeError: if `x` is not floating-point.
    """
    x = as_tensor(name, x)
    if not x.dtype.is_floating or x.dtype.size < 2:
        raise TypeError(
            f"`{name}` must be float16, bfloat16, float32 or float64. "
            f"Received: dtype {x.dtype.name}"
        )
    return tf.cast(x, tf.float32)
