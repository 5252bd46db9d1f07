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
    """Rounds a finite number as tfmp does: FP8 saturates, others overflow.

    >>> from tfmp.formats import E4M3
    >>> nearest(E4M3, 0.3)[:2]
    (0.3125, 42)
    >>> nearest(E4M3, -1e3).fate
    'clipped to the largest'
    """
    size = abs(x)
    exponent = math.frexp(size)[1] - 1 if size else format.min_exponent
    exponent = min(max(exponent, format.min_exponent), format.max_exponent)
    unit = 2.0 ** (exponent - format.mantissa_bits)
    count = round(size / unit)  # half to even
    error = abs(size / unit - count)
    # A carry into the next binade is one in the exponent's bits too.
    code = ((exponent - format.min_exponent) << format.mantissa_bits) + count
    value, fate = count * unit, "exact" if not error else "rounded"
    if value > format.max:
        value, code, error, fate = _too_large(format, size, unit)
    elif size and not count:
        fate = "flushed to zero"
    elif 0 < value < format.min_normal:
        fate = f"{fate}, subnormal"
    sign = int(math.copysign(1, x) < 0) << (format.bits - 1)
    return Rounded(math.copysign(value, x), code | sign, error, fate)


def _too_large(
    format: Format, size: float, unit: float
) -> tuple[float, int, float, str]:
    top = int(format.max / unit)
    binades = format.max_exponent - format.min_exponent
    code = (binades << format.mantissa_bits) + top
    if format in FLOAT8:
        error = size / unit - top
        return format.max, code, error, "clipped to the largest"
    return math.inf, code + 1, math.inf, "overflows"
