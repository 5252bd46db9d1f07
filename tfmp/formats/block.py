"""Block formats as data: small numbers in blocks, each with its own scale."""

from __future__ import annotations

import dataclasses

from tfmp.formats.format import Format

POWERS_OF_TWO = ("floor", "ceil", "rceil", "even")
ROUNDINGS = (*POWERS_OF_TWO, "nearest")
MAX_BLOCK = 2**20


@dataclasses.dataclass(frozen=True)
class BlockFormat:
    """Blocks of elements of one format, with a scale of another each.

        value = scale(block) * element

    and with `tensor_scale` times a float32 number for the whole tensor too.
    The scale comes from `amax`, the largest magnitude in the block:

    | `scale_rounding` | scale                                         |
    |------------------|-----------------------------------------------|
    | `"floor"`        | `2**(floor(log2(amax)) - element.max_exponent)` |
    | `"ceil"`         | `2**(ceil(log2(amax)) - element.max_exponent)`  |
    | `"rceil"`        | `2**ceil(log2(amax / element.max))`           |
    | `"even"`         | `"floor"` of `amax` rounded to the element's mantissa |
    | `"nearest"`      | `amax / element.max`, rounded to nearest      |

    The first four are for scales that are powers of two.  `"floor"` is the
    rule of OCP Microscaling Formats (MX) 1.0, section 6.3, the largest power
    of two up to `amax` over the element's largest: values of a block above
    `element.max * scale` saturate.  `"ceil"` and `"rceil"` avoid that; the
    latter, NVIDIA's rule, has the smallest power of two that does.  `"even"`
    goes up where `amax` would round up to the next power of two.

    NVFP4 is as in Transformer Engine: with `whole = 448 * 6 / amax(tensor)`,
    a block's scale is `E4M3(amax * (whole / 6)) / whole`, which may be
    subnormal, or zero and its block with it.  torchao, which has the same
    scale of the tensor, keeps those of blocks at `2**-6 / whole` and above.

    Args:
        name: such as `"MXFP4"`.
        element: the `Format` of the elements.
        block_size: how many elements share a scale, from 1 on.
        scale: the `Format` of the scales.
        scale_rounding: one of the table's.
        tensor_scale: whether the scales have a scale, of float32.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if `block_size` or `scale_rounding` is not allowed, or the
            latter does not fit `scale`.

    Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5 (the
    formats) and 6.3 (the scale); torchao's `ScaleCalculationMode` and
    `to_mx` (the other rules, `prototype/mx_formats/mx_tensor.py`); arXiv
    2509.25149, appendix, and Transformer Engine's `NVFP4QuantizerRef`
    (`pytorch/custom_recipes/quantization_nvfp4.py`) for `tensor_scale`.

    >>> from tfmp.formats import E2M1, E8M0
    >>> BlockFormat("MXFP4", E2M1, 32, E8M0).bits
    4.25
    """

    name: str
    element: Format
    block_size: int
    scale: Format
    scale_rounding: str = "floor"
    tensor_scale: bool = False

    def __post_init__(self) -> None:
        kinds = {"name": str, "element": Format, "scale": Format}
        kinds |= {"block_size": int, "scale_rounding": str}
        for name, kind in (kinds | {"tensor_scale": bool}).items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise TypeError(
                    f"`{name}` must be of type {kind.__name__}. "
                    f"Received: {value!r}"
                )
        if not 1 <= self.block_size <= MAX_BLOCK:
            raise ValueError(
                f"`block_size` must be from 1 to {MAX_BLOCK}. "
                f"Received: {self.block_size!r}"
            )
        allowed = ("nearest",) if self.scale.mantissa_bits else POWERS_OF_TWO
        if self.scale_rounding not in allowed:
            raise ValueError(
                f"`scale_rounding` must be one of {allowed} for a scale with "
                f"{self.scale.mantissa_bits} mantissa bits. "
                f"Received: {self.scale_rounding!r}"
            )

    @property
    def bits(self) -> float:
        """Width of one value with its share of the block's scale, in bits."""
        return self.element.bits + self.scale.bits / self.block_size

    @property
    def in_float32(self) -> bool:
        """Whether float32 has every value of elements and of scales."""
        return self.element.in_float32 and self.scale.in_float32
