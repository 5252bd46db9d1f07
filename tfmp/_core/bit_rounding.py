"""Rounding to the values of any small format, by integer arithmetic.

A format's values near `x` are the multiples of one power of two, `2**k` with

    k = max(floor(log2(abs(x))), min_exponent) - mantissa_bits

and rounding to them is arithmetic on the bits of the float32 `x`: those below
`2**k` decide, and are cleared.  No float operation sees a value, so that the
result is the same on every device, compiled or not; XLA on a CPU takes
subnormal operands of float operations for zero.
"""

from __future__ import annotations

import struct

import tensorflow as tf

from tfmp.formats import Format

RANDOM_BITS = 30
SIGN, MAGNITUDE = -0x80000000, 0x7FFFFFFF
INFINITY, NAN = 0x7F800000, 0x7FC00000
FRACTION_BITS = 23
HIDDEN = 1 << FRACTION_BITS
LEAST = -149  # exponent of the smallest float32


def bits_of(x: tf.Tensor) -> tf.Tensor:
    """Returns the bits of a tensor's values as float32, in int32."""
    return tf.bitcast(tf.cast(x, tf.float32), tf.int32)


def round_bits(
    bits: tf.Tensor,
    target: Format,
    rounding: str = "nearest",
    saturate: bool = True,
    random: tf.Tensor | None = None,
) -> tf.Tensor:
    """Rounds float32 values, given as their bits, to those of a format.

    Args:
        bits: int32 of any shape.
        target: a format that is `in_float32`.
        rounding: one of `formats.ROUNDINGS`; ties of `"nearest"` go to an even
            mantissa, or without one to the larger magnitude.
        saturate: whether what is too large becomes the largest value; if not,
            it becomes infinite or NaN, as far as the format has these.
        random: int32 of the shape of `bits`, uniform from 0 to `2**30 - 1`,
            for `"stochastic"`.

    Returns:
        int32 of the same shape, bits of float32 values.  NaN stays NaN, also
        where the format has none; so does what has no value near: zero in a
        format without, numbers below zero in one without sign.
    """
    size, sign = bits & MAGNITUDE, bits & SIGN
    low = _rounded(size, target, rounding, random)
    if not target.has_zero:
        low = tf.maximum(low, _bits(target.min_normal))
    low = _limited(size, low, target, rounding, saturate)
    lost = size > INFINITY
    if not target.signed:
        below = sign != 0
        lost |= below & (size > 0) if target.has_zero else below
        sign = tf.zeros_like(sign)
    if not target.has_zero:
        lost |= size == 0
    if target.specials == "fnuz":
        sign = tf.where(low == 0, 0, sign)
    return tf.where(lost, NAN, low | sign)


def _rounded(
    size: tf.Tensor, target: Format, rounding: str, random: tf.Tensor | None
) -> tf.Tensor:
    """Rounds magnitudes as if the format had no largest value."""
    field = tf.bitwise.right_shift(size, FRACTION_BITS)
    normal = field > 0
    whole = (size & (HIDDEN - 1)) + tf.where(normal, HIDDEN, 0)
    # A subnormal is an integer times the smallest float32.
    as_float = tf.bitcast(tf.cast(size & (HIDDEN - 1), tf.float32), tf.int32)
    subnormal = tf.bitwise.right_shift(as_float, FRACTION_BITS) - 127 + LEAST
    exponent = tf.where(normal, field - 127, subnormal)
    unit = tf.maximum(exponent, target.min_exponent) - target.mantissa_bits
    shift = tf.maximum(unit - LEAST - tf.maximum(field, 1) + 1, 0)
    # Where all bits of `whole` are below the unit, it is the smallest value.
    near = tf.minimum(shift, FRACTION_BITS)
    added, up = _choice(whole, shift, near, rounding, random)
    cleared = tf.bitwise.right_shift(size + added, near)
    least = tf.where(up, _bits(target.min_subnormal), 0)
    low = tf.bitwise.left_shift(cleared, near)
    return tf.where(shift > FRACTION_BITS, least, low)


def _choice(
    whole: tf.Tensor,
    shift: tf.Tensor,
    near: tf.Tensor,
    rounding: str,
    random: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what to add before bits are cleared, and whether to leave zero.

    Args:
        whole: the mantissa with its hidden bit.
        shift: how many bits are below the unit.
        near: the same, as far as `whole` has bits above them.
        rounding: one of `formats.ROUNDINGS`.
        random: of `round_bits`.
    """
    if rounding == "toward_zero":
        return tf.zeros_like(whole), tf.zeros_like(whole, tf.bool)
    if rounding == "nearest":
        odd = tf.bitwise.right_shift(whole, near) & tf.minimum(near, 1)
        half = tf.bitwise.right_shift(_power(near) - 1, 1)
        return half + odd, (shift == FRACTION_BITS + 1) & (whole > HIDDEN)
    deep = tf.minimum(shift, RANDOM_BITS)
    surplus = tf.minimum(shift - deep, 31)
    part = tf.bitwise.right_shift(whole, surplus)
    up = part + tf.bitwise.right_shift(random, RANDOM_BITS - deep)
    added = tf.bitwise.right_shift(random, RANDOM_BITS - near)
    return added, up >= _power(deep)


def _limited(
    size: tf.Tensor,
    low: tf.Tensor,
    target: Format,
    rounding: str,
    saturate: bool,
) -> tf.Tensor:
    top = _bits(target.max)
    if saturate or not target.has_nan:
        return tf.minimum(low, top)
    beyond = INFINITY if target.has_infinity else NAN
    if rounding == "toward_zero":
        return tf.where(size < INFINITY, tf.minimum(low, top), beyond)
    return tf.where(low > top, beyond, low)


def _power(exponent: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.left_shift(tf.ones_like(exponent), exponent)


def _bits(value: float) -> int:
    """Returns the bits of a positive float32."""
    return int.from_bytes(struct.pack(">f", value), "big")
