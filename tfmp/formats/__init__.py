"""Number formats as data: floating-point formats, and blocks of them.

E4M3 and E5M2 are those of "FP8 Formats for Deep Learning" (Micikevicius et
al., arXiv 2209.05433, section 3, table 1).  E4M3 gives up infinities to gain
one binade: only the code with all bits set is NaN.  FP6, FP4 and the block
formats MX are those of OCP Microscaling Formats (MX) 1.0, section 5; NVFP4 is
that of arXiv 2509.25149, section 2.  The others are LLVM's `APFloat`, as
ml_dtypes has them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tfmp.formats.block import BlockFormat
from tfmp.formats.format import Format

__all__ = ["BlockFormat", "Format", "get", "get_plain", "serialize"]

# How a number between two values of a format is rounded.
ROUNDINGS = ("nearest", "toward_zero", "stochastic")

E4M3 = Format("E4M3", "float8_e4m3fn", 4, 3, "fn")
E5M2 = Format("E5M2", "float8_e5m2", 5, 2)
BFLOAT16 = Format("BFLOAT16", "bfloat16", 8, 7)
FLOAT16 = Format("FLOAT16", "float16", 5, 10)
FLOAT32 = Format("FLOAT32", "float32", 8, 23)
E2M1 = Format("E2M1", "float4_e2m1fn", 2, 1, "none")
E2M3 = Format("E2M3", "float6_e2m3fn", 2, 3, "none")
E3M2 = Format("E3M2", "float6_e3m2fn", 3, 2, "none")
E3M4 = Format("E3M4", "float8_e3m4", 3, 4)
E4M3_IEEE = Format("E4M3_IEEE", "float8_e4m3", 4, 3)
E4M3FNUZ = Format("E4M3FNUZ", "float8_e4m3fnuz", 4, 3, "fnuz")
E4M3B11FNUZ = Format("E4M3B11FNUZ", "float8_e4m3b11fnuz", 4, 3, "fnuz", 11)
E5M2FNUZ = Format("E5M2FNUZ", "float8_e5m2fnuz", 5, 2, "fnuz")
E8M0 = Format("E8M0", "float8_e8m0fnu", 8, 0, "fn", signed=False)

MXFP8_E4M3 = BlockFormat("MXFP8_E4M3", E4M3, 32, E8M0)
MXFP8_E5M2 = BlockFormat("MXFP8_E5M2", E5M2, 32, E8M0)
MXFP6_E2M3 = BlockFormat("MXFP6_E2M3", E2M3, 32, E8M0)
MXFP6_E3M2 = BlockFormat("MXFP6_E3M2", E3M2, 32, E8M0)
MXFP4 = BlockFormat("MXFP4", E2M1, 32, E8M0)
NVFP4 = BlockFormat("NVFP4", E2M1, 16, E4M3, "nearest", tensor_scale=True)

FLOAT8 = (E4M3, E5M2)  # what products can have as operands
WIDE = (BFLOAT16, FLOAT16, FLOAT32)
SMALL = (E2M1, E2M3, E3M2, E3M4, E4M3_IEEE, E4M3FNUZ, E4M3B11FNUZ, E5M2FNUZ)
ALL = (*FLOAT8, *WIDE, *SMALL, E8M0)
BLOCKS = (MXFP8_E4M3, MXFP8_E5M2, MXFP6_E2M3, MXFP6_E3M2, MXFP4, NVFP4)


def get(dtype: object) -> Format | BlockFormat:
    """Finds a format by value, name or dtype.

    Args:
        dtype: a `Format` or `BlockFormat`; a name such as `"E4M3"` or
            `"MXFP4"` (case does not matter); a dtype, as its name or as an
            object with a `name`; or what `serialize` gave.

    Returns:
        The `Format` or `BlockFormat`.

    Raises:
        TypeError: if `dtype` is none of these.
        ValueError: if it names no format of `formats.ALL` or `formats.BLOCKS`.

    >>> get("e5m2").dtype, get("nvfp4").block_size
    ('float8_e5m2', 16)
    """
    if isinstance(dtype, Format | BlockFormat):
        return dtype
    if isinstance(dtype, dict):
        return _deserialize(dtype)
    name = dtype if isinstance(dtype, str) else _dtype_name(dtype)
    for known in ALL:
        if name.lower() in (known.name.lower(), known.dtype):
            return known
    for block in BLOCKS:
        if name.lower() == block.name.lower():
            return block
    raise ValueError(
        "`dtype` must be a format of tfmp.formats, its name or its dtype: "
        f"{', '.join(f'{f.name} ({f.dtype})' for f in ALL)}, "
        f"{', '.join(f.name for f in BLOCKS)}. Received: {dtype!r}"
    )


def get_plain(dtype: object) -> Format:
    """Finds a format that is not one of blocks, as `get` does.

    Raises:
        TypeError: if `dtype` is neither a format nor what names one.
        ValueError: if it names none, or one of blocks.

    >>> get_plain("float8_e5m2").max
    57344.0
    """
    found = get(dtype)
    if isinstance(found, BlockFormat):
        raise ValueError(
            "`dtype` must be a plain format, not a format of blocks. "
            f"Received: {dtype!r}"
        )
    return found


def representable(name: str, format: Any) -> Format | BlockFormat:
    """Returns a format whose values float32 has.

    Args:
        name: of the argument, for errors.
        format: as for `get`.

    Raises:
        TypeError: if it is no format.
        ValueError: if it is unknown, or has values that float32 has not.
    """
    try:
        found = get(format)
    except (TypeError, ValueError) as error:
        text = str(error).replace("`dtype`", f"`{name}`", 1)
        raise type(error)(text) from error
    if not found.in_float32:
        raise ValueError(
            f"`{name}` must be a format whose values float32 can hold. "
            f"Received: {found!r}"
        )
    return found


def is_known(format: Format | BlockFormat) -> bool:
    """Whether a format is one of this module's, which its name stands for."""
    return format in (*ALL, *BLOCKS)


def serialize(format: Format | BlockFormat) -> str | dict[str, Any]:
    """Returns a name, or the fields of a format of one's own, for `get`.

    Raises:
        TypeError: if `format` is no format.

    >>> serialize(MXFP4), serialize(Format("E3M0", "", 3, 0))["bias"]
    ('MXFP4', 3)
    """
    if not isinstance(format, Format | BlockFormat):
        raise TypeError(
            "`format` must be a tfmp.formats.Format or BlockFormat. "
            f"Received: {format!r}"
        )
    return format.name if is_known(format) else dataclasses.asdict(format)


def _deserialize(config: dict[str, Any]) -> Format | BlockFormat:
    try:
        if "element" not in config:
            return Format(**config)
        parts = {key: Format(**config[key]) for key in ("element", "scale")}
        return BlockFormat(**{**config, **parts})
    except (KeyError, TypeError) as error:
        raise TypeError(
            "`dtype` must be what tfmp.formats.serialize gave, if it is a "
            f"dictionary ({error}). Received: {config!r}"
        ) from error


def _dtype_name(dtype: Any) -> str:
    name = getattr(dtype, "name", None)
    if name is None:
        name = getattr(dtype, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(
            "`dtype` must be a tfmp.formats.Format, a name or a dtype. "
            f"Received: {dtype!r}"
        )
    return name
