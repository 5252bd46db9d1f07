"""Floating-point formats as data: five stored fields, all else derived.

A format with `e` exponent bits, `m` mantissa bits and bias `B` represents

    normal:     (-1)**s * 2**(E - B) * (1 + M / 2**m)     with E > 0
    subnormal:  (-1)**s * 2**(1 - B) * (M / 2**m)         with E == 0

E4M3 and E5M2 are those of "FP8 Formats for Deep Learning" (Micikevicius et
al., arXiv 2209.05433, section 3, table 1).  E4M3 gives up infinities to gain
one binade: only the code with all bits set is NaN.
"""

from __future__ import annotations

import dataclasses

MAX_BITS = {"exponent_bits": 10, "mantissa_bits": 52}  # of a float64
FIELDS: dict[str, tuple[type, str]] = {
    "name": (str, "a string"),
    "dtype": (str, "a string"),
    "exponent_bits": (int, "an integer"),
    "mantissa_bits": (int, "an integer"),
    "has_infinity": (bool, "True or False"),
}


@dataclasses.dataclass(frozen=True)
class Format:
    """One binary floating-point format.

    Attributes:
        name: the field's own name, such as `"E4M3"`.
        dtype: name of the dtype in NumPy, ml_dtypes and TensorFlow.
        exponent_bits: width of the exponent field, in bits.
        mantissa_bits: width of the stored mantissa, in bits.
        has_infinity: whether the largest exponent is kept for infinities and
            NaNs, as in IEEE 754; if not, only its last code is NaN.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a width is out of the range of float64's.

    >>> E4M3.max, E4M3.min_normal == 2**-6, E4M3.min_subnormal == 2**-9
    (448.0, True, True)
    """

    name: str
    dtype: str
    exponent_bits: int
    mantissa_bits: int
    has_infinity: bool = True

    def __post_init__(self) -> None:
        for name, (kind, said) in FIELDS.items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise TypeError(f"`{name}` must be {said}. Received: {value!r}")
        for name, top in MAX_BITS.items():
            value = getattr(self, name)
            if not 1 <= value <= top:
                raise ValueError(
                    f"`{name}` must be from 1 to {top}. Received: {value!r}"
                )

    @property
    def bits(self) -> int:
        """Width of one value, with its sign, in bits."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """Subtracted from the exponent field: `2**(e - 1) - 1`."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        top = 2**self.exponent_bits - 1 - self.bias
        return top - 1 if self.has_infinity else top

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value: `1 - bias`."""
        return 1 - self.bias

    @property
    def max(self) -> float:
        """Largest finite value."""
        codes_lost = 1 if self.has_infinity else 2
        fraction = (2**self.mantissa_bits - codes_lost) / 2**self.mantissa_bits
        return float(2.0**self.max_exponent * (1 + fraction))

    @property
    def min_normal(self) -> float:
        """Smallest positive value of full precision."""
        return float(2.0**self.min_exponent)

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value."""
        return float(2.0 ** (self.min_exponent - self.mantissa_bits))

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next larger value: `2**-m`."""
        return float(2.0**-self.mantissa_bits)


E4M3 = Format("E4M3", "float8_e4m3fn", 4, 3, has_infinity=False)
E5M2 = Format("E5M2", "float8_e5m2", 5, 2)
BFLOAT16 = Format("BFLOAT16", "bfloat16", 8, 7)
FLOAT16 = Format("FLOAT16", "float16", 5, 10)
FLOAT32 = Format("FLOAT32", "float32", 8, 23)

ALL = (E4M3, E5M2, BFLOAT16, FLOAT16, FLOAT32)
FLOAT8 = (E4M3, E5M2)


def get(dtype: object) -> Format:
    """Finds a format by value, name or dtype.

    Args:
        dtype: a `Format`; a name such as `"E4M3"` (case does not matter); or a
            dtype, as its name or as an object with a `name`.

    Returns:
        The `Format`.

    Raises:
        TypeError: if `dtype` is none of these.
        ValueError: if it names no format of `formats.ALL`.

    >>> get("e5m2").dtype
    'float8_e5m2'
    """
    if isinstance(dtype, Format):
        return dtype
    name = dtype if isinstance(dtype, str) else _dtype_name(dtype)
    for known in ALL:
        if name.lower() in (known.name.lower(), known.dtype):
            return known
    raise ValueError(
        "`dtype` must be a format of tfmp.formats, its name or its dtype: "
        f"{', '.join(f'{f.name} ({f.dtype})' for f in ALL)}. "
        f"Received: {dtype!r}"
    )


def _dtype_name(dtype: object) -> str:
    name = getattr(dtype, "name", None)
    if name is None:
        name = getattr(dtype, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(
            "`dtype` must be a tfmp.formats.Format, a name or a dtype. "
            f"Received: {dtype!r}"
        )
    return name
