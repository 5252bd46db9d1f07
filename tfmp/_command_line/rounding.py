"""A number in a format: the nearest value, its bits, its error.

Without NumPy: in Python's float64, with a power of two as the unit `q` of the
last place,

    nearest = round_half_even(x / q) * q,    q = 2**(exponent - m)

where the exponent is that of `x`, and at least that of the smallest normal
number.  Formats of 8 bits and less saturate in tfmp, others overflow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tfmp.formats import Format

SATURATING = 8  # bits at most


class Rounded(NamedTuple):
    """A number in a format.

    Attributes:
        nearest: the value there; infinite where it overflows.
        code: its bits; None for a NaN that the format has not.
        ulp: the error, in units of the last place.
        fate: in words.
    """

    nearest: float
    code: int | None
    ulp: float
    fate: str


def nearest(format: Format, x: float) -> Rounded:
    """Rounds a number as tfmp does.

    >>> from tfmp.formats import E4M3
    >>> nearest(E4M3, 0.3)[:2]
    (0.3125, 42)
    >>> nearest(E4M3, -1e3).fate
    'clipped to the largest'
    >>> nearest(E4M3, math.nan)
    Rounded(nearest=nan, code=127, ulp=0.0, fate='stays NaN')
    """
    negative = math.copysign(1, x) < 0
    if not format.has_zero and (x == 0 or (negative and not math.isnan(x))):
        lacks = "zero" if x == 0 else "sign"
        code = format.max_code + 1
        return Rounded(math.nan, code, 0.0, f"becomes NaN: it has no {lacks}")
    found = _rounded(format, abs(x))
    if not format.signed or found.code is None:
        return found
    if format.specials == "fnuz" and not found.nearest > 0:
        negative = False  # the code of negative zero is that of NaN
    sign = int(negative) << (format.bits - 1)
    value = -found.nearest if negative else found.nearest
    return found._replace(nearest=value, code=found.code | sign)


def _rounded(format: Format, size: float) -> Rounded:
    if not math.isfinite(size):
        return _not_finite(format, size)
    exponent = math.frexp(size)[1] - 1 if size else format.min_exponent
    exponent = min(max(exponent, format.min_exponent), format.max_exponent)
    unit = 2.0 ** (exponent - format.mantissa_bits)
    hidden = not format.has_zero
    count = max(round(size / unit), int(hidden))  # half to even
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
    return Rounded(value, code - hidden, error, fate)


def _too_large(format: Format, size: float, unit: float) -> Rounded:
    code = format.max_code
    if format.bits <= SATURATING:
        error = (size - format.max) / unit
        return Rounded(format.max, code, error, "clipped to the largest")
    return Rounded(math.inf, code + 1, math.inf, "overflows")


def _not_finite(format: Format, size: float) -> Rounded:
    code = format.max_code
    if math.isnan(size):
        if not format.has_nan:
            return Rounded(size, None, 0.0, "stays NaN, which it has not")
        quiet = 2 ** (format.mantissa_bits - 1) if format.has_infinity else 0
        return Rounded(size, code + 1 + quiet, 0.0, "stays NaN")
    if format.bits <= SATURATING:
        fate = "clipped to the largest: it has no infinity"
        if format.has_infinity:
            fate = "clipped to the largest: it has infinity, tfmp saturates"
        return Rounded(format.max, code, math.inf, fate)
    return Rounded(size, code + 1, 0.0, "stays infinite")
