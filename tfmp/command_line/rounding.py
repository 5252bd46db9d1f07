"""A number in a format: the nearest value, its bits, its error.

Without NumPy: in Python's float64, with a power of two as the unit `q` of the
last place,

    nearest = round_half_even(x / q) * q,    q = 2**(exponent - m)

where the exponent is that of `x`, and at least that of the smallest normal
number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tfmp.formats import FLOAT8, Format


class Rounded(NamedTuple):
    """A number in a format.

    Attributes:
        nearest: the value there; infinite where it overflows.
        code: its bits.
        ulp: the error, in units of the last place.
        fate: in words.
    """

    nearest: float
    code: int
    ulp: float
    fate: str


def nearest(format: Format, x: float) -> Rounded:
    """Rounds a number as tfmp does: FP8 saturates, others overflow.

    >>> from tfmp.formats import E4M3
    >>> nearest(E4M3, 0.3)[:2]
    (0.3125, 42)
    >>> nearest(E4M3, -1e3).fate
    'clipped to the largest'
    >>> nearest(E4M3, math.nan)
    Rounded(nearest=nan, code=127, ulp=0.0, fate='stays NaN')
    """
    value, code, error, fate = _rounded(format, abs(x))
    sign = int(math.copysign(1, x) < 0) << (format.bits - 1)
    return Rounded(math.copysign(value, x), code | sign, error, fate)


def _rounded(format: Format, size: float) -> Rounded:
    if not math.isfinite(size):
        return _not_finite(format, size)
    exponent = math.frexp(size)[1] - 1 if size else format.min_exponent
    exponent = min(max(exponent, format.min_exponent), format.max_exponent)
    unit = 2.0 ** (exponent - format.mantissa_bits)
    count = round(size / unit)  # half to even
    error = abs(size / unit - count)
    # A carry into the next binade is one in the exponent's bits too.
    code = ((exponent - format.min_exponent) << format.mantissa_bits) + count
    value, fate = count * unit, "exact" if not error else "rounded"
    if value > format.max:
        return _too_large(format, size, unit)
    if size and not count:
        fate = "flushed to zero"
    elif 0 < value < format.min_normal:
        fate = f"{fate}, subnormal"
    return Rounded(value, code, error, fate)


def _too_large(format: Format, size: float, unit: float) -> Rounded:
    code = _top(format)
    if format in FLOAT8:
        error = (size - format.max) / unit
        return Rounded(format.max, code, error, "clipped to the largest")
    return Rounded(math.inf, code + 1, math.inf, "overflows")


def _not_finite(format: Format, size: float) -> Rounded:
    code = _top(format)
    if math.isnan(size):
        quiet = 2 ** (format.mantissa_bits - 1) if format.has_infinity else 0
        return Rounded(size, code + 1 + quiet, 0.0, "stays NaN")
    if format in FLOAT8:
        fate = "clipped to the largest: it has no infinity"
        if format.has_infinity:
            fate = "clipped to the largest: it has infinity, tfmp saturates"
        return Rounded(format.max, code, math.inf, fate)
    return Rounded(size, code + 1, 0.0, "stays infinite")


def _top(format: Format) -> int:
    """The code of the largest value; the next is infinity, or NaN."""
    mantissas = 2**format.mantissa_bits if format.has_infinity else 1
    return int(2 ** (format.bits - 1)) - mantissas - 1
