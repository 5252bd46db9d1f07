"""One floating-point format as data: a few stored fields, all else derived.

A format with `e` exponent bits, `m` mantissa bits and bias `B` represents

    normal:     (-1)**s * 2**(E - B) * (1 + M / 2**m)     with E > 0
    subnormal:  (-1)**s * 2**(1 - B) * (M / 2**m)         with E == 0

and what its codes of largest magnitude stand for is one of four habits:

    "ieee"  the largest E is for infinities (M == 0) and NaNs
    "fn"    no infinities; the code with all bits set is NaN
    "fnuz"  no infinities, no negative zero: its code is the only NaN
    "none"  no infinities and no NaN: every code is a number

An unsigned format without mantissa has no zero either: `2**(E - B)` for every
E, as the E8M0 of scales.
"""

from __future__ import annotations

import dataclasses
import math

SPECIALS = ("ieee", "fn", "fnuz", "none")
BITS = {"exponent_bits": (1, 10), "mantissa_bits": (0, 52)}
EXPONENTS = (-1022, 1023)  # of normal float64 values
FIELDS: dict[str, tuple[type, str]] = {
    "name": (str, "a string"),
    "dtype": (str, "a string"),
    "exponent_bits": (int, "an integer"),
    "mantissa_bits": (int, "an integer"),
    "specials": (str, "a string"),
    "bias": (int, "an integer or None"),
    "signed": (bool, "True or False"),
}


@dataclasses.dataclass(frozen=True)
class Format:
    """One binary floating-point format.

        value = (-1)**s * 2**(E - bias) * (1 + M / 2**mantissa_bits)

    Args:
        name: the field's own name, such as `"E4M3"`.
        dtype: name of the dtype in NumPy, ml_dtypes and TensorFlow; empty if
            none of them has it.
        exponent_bits: width of the exponent field, from 1 to 10 bits.
        mantissa_bits: width of the stored mantissa, from 0 to 52 bits.
        specials: what the largest codes are for: `"ieee"` infinities and
            NaNs; `"fn"` one NaN; `"fnuz"` one NaN, in the place of negative
            zero; `"none"` numbers, as in the FP6 and FP4 of OCP.
        bias: what is taken off the exponent field; None is
            `2**(exponent_bits - 1) - 1`, and one more for `"fnuz"`.
        signed: whether there is a sign bit.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of its range, or leaves no finite value
            above zero, or one that is not a normal float64.

    >>> E3M0 = Format("E3M0", "", 3, 0, specials="none")
    >>> [E3M0.decode(code) for code in range(8)]
    [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    """

    name: str
    dtype: str
    exponent_bits: int
    mantissa_bits: int
    specials: str = "ieee"
    bias: int = None  # type: ignore[assignment]
    signed: bool = True

    def __post_init__(self) -> None:
        if self.bias is None:
            self._check_types(*(name for name in FIELDS if name != "bias"))
            self._check_ranges()
            usual = 2 ** (self.exponent_bits - 1) - (self.specials != "fnuz")
            object.__setattr__(self, "bias", usual)
        else:
            self._check_types(*FIELDS)
            self._check_ranges()
        self._check_values()

    def _check_types(self, *names: str) -> None:
        for name in names:
            value, (kind, said) = getattr(self, name), FIELDS[name]
            if type(value) is not kind:
                raise TypeError(f"`{name}` must be {said}. Received: {value!r}")

    def _check_ranges(self) -> None:
        for name, (low, high) in BITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(
                    f"`{name}` must be from {low} to {high}. "
                    f"Received: {value!r}"
                )
        if self.specials not in SPECIALS:
            raise ValueError(
                f"`specials` must be one of {SPECIALS}. "
                f"Received: {self.specials!r}"
            )
        if not self.signed and self.specials == "fnuz":
            raise ValueError(
                "`specials` must not be 'fnuz', which is about negative zero, "
                "if `signed` is False. Received: 'fnuz'"
            )

    def _check_values(self) -> None:
        if self.max_code < 1:
            raise ValueError(
                "`exponent_bits` and `mantissa_bits` must leave a finite value "
                f"above zero. Received: {self.exponent_bits}, "
                f"{self.mantissa_bits}, specials={self.specials!r}"
            )
        low = self.min_exponent - self.mantissa_bits
        high = self.min_exponent + 2**self.exponent_bits
        if low < EXPONENTS[0] or high > EXPONENTS[1] + 1:
            raise ValueError(
                "`bias` must leave values that are normal float64 numbers. "
                f"Received: {self.bias!r}"
            )

    @property
    def bits(self) -> int:
        """Width of one value, with its sign, in bits."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def has_infinity(self) -> bool:
        """Whether there are infinities: those of `specials="ieee"`."""
        return self.specials == "ieee"

    @property
    def has_nan(self) -> bool:
        """Whether there is a NaN."""
        return self.specials != "none"

    @property
    def has_zero(self) -> bool:
        """Whether there is a zero: in all but unsigned powers of two."""
        return self.signed or self.mantissa_bits > 0

    @property
    def max_code(self) -> int:
        """The bits of the largest finite value."""
        codes: int = 2 ** (self.exponent_bits + self.mantissa_bits)
        taken = {"ieee": 2**self.mantissa_bits, "fn": 1}
        found: int = codes - 1 - taken.get(self.specials, 0)
        return found

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        return math.frexp(self.max)[1] - 1

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value: `1 - bias`."""
        return self.has_zero - self.bias

    @property
    def max(self) -> float:
        """Largest finite value."""
        return self._magnitude(self.max_code)

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

    @property
    def in_float32(self) -> bool:
        """Whether float32 has every value."""
        least = self.min_exponent - self.mantissa_bits
        narrow = self.mantissa_bits <= 23 and self.max_exponent <= 127
        return narrow and least >= -149

    def decode(self, code: int) -> float:
        """Returns the value that a code stands for.

        Args:
            code: the bits, from 0 to `2**bits - 1`.

        Raises:
            TypeError: if `code` is not an integer.
            ValueError: if it is out of range.

        >>> Format("E4M3", "float8_e4m3fn", 4, 3, "fn").decode(0b1_0111_100)
        -1.5
        """
        if not isinstance(code, int) or isinstance(code, bool):
            raise TypeError(f"`code` must be an integer. Received: {code!r}")
        if not 0 <= code < 2**self.bits:
            raise ValueError(
                f"`code` must be from 0 to {2**self.bits - 1}. "
                f"Received: {code!r}"
            )
        top = 2 ** (self.exponent_bits + self.mantissa_bits)
        negative, code = divmod(code, top)
        if negative and not code and self.specials == "fnuz":
            return math.nan
        value = self._magnitude(code)
        return -value if negative else value

    def _magnitude(self, code: int) -> float:
        if code > self.max_code:
            infinite = self.has_infinity and code == self.max_code + 1
            return math.inf if infinite else math.nan
        exponent, mantissa = divmod(code, 2**self.mantissa_bits)
        if exponent == 0 and self.has_zero:
            found: float = mantissa * self.min_subnormal
            return found
        fraction = 1 + mantissa * self.epsilon
        return float(2.0 ** (exponent - self.bias) * fraction)
