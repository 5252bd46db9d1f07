"""`tfmp formats`: the formats, and numbers in each of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from tfmp import formats
from tfmp._command_line.outcome import Command, Outcome
from tfmp._command_line.rounding import nearest
from tfmp._support import tables
from tfmp.formats import BlockFormat, Format

TITLES = (
    *("format", "dtype", "bits", "layout", "largest", "least normal"),
    *("least", "epsilon", "infinity"),
)
BLOCK_TITLES = ("blocks", "bits", "element", "size", "scale", "rounded")
NUMBER_TITLES = ("nearest", "code", "relative error", "ulp", "what happens")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "numbers",
        nargs="*",
        type=_number,
        metavar="NUMBER",
        help="to show in each format, such as 0.1, -1e5, inf or nan",
    )
    names = [format.name for format in formats.ALL]
    parser.add_argument(
        "--format",
        action="append",
        type=str.upper,
        choices=names,
        metavar="NAME",
        help=f"only this one; may be repeated: {', '.join(names)}",
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}") from error


def _run(options: argparse.Namespace) -> Outcome:
    chosen = [
        format
        for format in formats.ALL
        if not options.format or format.name in options.format
    ]
    if not options.numbers:
        return _listed(chosen, () if options.format else formats.BLOCKS)
    blocks = [_block(x, chosen) for x in options.numbers]
    data = [
        {
            "number": _plain(x),
            "formats": [_fields(format, x) for format in chosen],
        }
        for x in options.numbers
    ]
    return Outcome("\n\n".join(blocks), data)


def _listed(chosen: list[Format], blocks: Sequence[BlockFormat]) -> Outcome:
    lines = tables.lines([TITLES, *map(_cells, chosen)])
    data = [_properties(format) for format in chosen]
    if blocks:
        rows = [BLOCK_TITLES, *map(_block_cells, blocks)]
        lines += ["", *tables.lines(rows)]
        data += [_block_properties(block) for block in blocks]
    return Outcome("\n".join(lines), data)


def _block_properties(block: BlockFormat) -> dict[str, Any]:
    return {
        "name": block.name,
        "bits": block.bits,
        "element": block.element.name,
        "block_size": block.block_size,
        "scale": block.scale.name,
        "scale_rounding": block.scale_rounding,
        "tensor_scale": block.tensor_scale,
    }


def _block_cells(block: BlockFormat) -> tuple[str, ...]:
    scale = block.scale.name + (" x FLOAT32" if block.tensor_scale else "")
    sizes = f"{block.bits:g}", block.element.name, str(block.block_size)
    return (block.name, *sizes, scale, block.scale_rounding)


def _properties(format: Format) -> dict[str, Any]:
    return {
        "name": format.name,
        "dtype": format.dtype,
        "bits": format.bits,
        "exponent_bits": format.exponent_bits,
        "mantissa_bits": format.mantissa_bits,
        "bias": format.bias,
        "max": format.max,
        "min_normal": format.min_normal,
        "min_subnormal": format.min_subnormal,
        "epsilon": format.epsilon,
        "has_infinity": format.has_infinity,
        "has_nan": format.has_nan,
    }


def _cells(format: Format) -> tuple[str, ...]:
    numbers = (format.min_normal, format.min_subnormal, format.epsilon)
    return (
        format.name,
        format.dtype,
        str(format.bits),
        f"{format.signed:d}-{format.exponent_bits}-{format.mantissa_bits}",
        f"{format.max:.6g}",
        *(f"2^{round(math.log2(number))}" for number in numbers),
        "yes" if format.has_infinity else "no",
    )


def _fields(format: Format, x: float) -> dict[str, Any]:
    found = nearest(format, x)
    finite = math.isfinite(x) and math.isfinite(found.nearest)
    relative = abs(found.nearest - x) / abs(x) if x else 0.0
    return {
        "format": format.name,
        "nearest": _plain(found.nearest),
        "code": _hexadecimal(found.code, format.bits),
        "relative_error": relative if finite else None,
        "ulp": found.ulp if finite else None,
        "fate": found.fate,
    }


def _hexadecimal(code: int | None, bits: int) -> str | None:
    return None if code is None else f"0x{code:0{-(-bits // 4)}x}"


def _plain(x: float) -> float | str:
    """JSON has no number for `nan`, `inf` and `-inf`."""
    return x if math.isfinite(x) else str(x)


def _block(x: float, chosen: list[Format]) -> str:
    rows = [(f"{x:g} as", *NUMBER_TITLES)]
    for format in chosen:
        found = _fields(format, x)
        relative = ulp = ""
        if found["ulp"] is not None:
            relative = f"{found['relative_error']:.2e}"
            ulp = f"{found['ulp']:.4g}"
        value = f"{float(found['nearest']):.9g}"
        code, fate = found["code"] or "", found["fate"]
        rows.append((format.name, value, code, relative, ulp, fate))
    return "\n".join(tables.lines(rows))


COMMAND = Command(
    "formats",
    "list the number formats, or show numbers in each of them",
    _arguments,
    _run,
    (
        "tfmp formats",
        "tfmp formats 0.1 -1e5 inf",
        "tfmp formats 0.1 --format E4M3",
    ),
)
