"""A product of FP8 operands, as the StableHLO that CPUs are fast at.

No CPU multiplies FP8; XLA would widen the operands to float32.  Here they are
widened to bfloat16, which holds every FP8 value, as CPUs with AVX512-BF16 (and
XLA with XNNPACK) multiply such in twice the rate of float32, accumulating in
float32.  XNNPACK wants `[batch, m, k] x [batch, k, n]`, or `[batch, n, k]`, in
the order of memory: an operand in another order is transposed, behind a
barrier, for XLA would put the transposition into the product again.

One row, a batch of one sample, is a sum over the rows of the other operand:
what is read is FP8, and no wide copy of it is written.  XLA has no library for
a product of bfloat16 with one row, and a loop of its own takes ten times as
long.

This module writes text, and knows nothing of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfmp._core import equations
from tfmp._core.stablehlo_writer import (
    Lengths,
    Operand,
    Value,
    Writer,
    tensor_type,
)

WIDE, SUM = "bf16", "f32"
FLOAT8 = ("f8E4M3FN", "f8E5M2")
CHUNKS = (8, 4, 2, 1)  # elements of a column that are added at once


def lines(
    contraction: equations.Contraction,
    lhs: Lengths,
    rhs: Lengths,
    elements: Sequence[str],
) -> tuple[list[str], str]:
    """Writes the product of `%a` and `%b`.

    Args:
        contraction: the labels of the axes.
        lhs: the lengths of `%a`, None for one that is not known.
        rhs: those of `%b`.
        elements: the element types of `%a`, `%b` and the result.

    Returns:
        The lines, and the name of the result, whose axes are in the natural
        order.
    """
    operands = (
        Operand("%a", contraction.lhs, tensor_type(lhs, elements[0])),
        Operand("%b", contraction.rhs, tensor_type(rhs, elements[1])),
    )
    writer = Writer(lengths(contraction, lhs, rhs), operands)
    batch, summed = contraction.batch, contraction.contracting
    m, n = (_free(value.labels, batch + summed) for value in operands)
    left, axes = _ordered(
        writer, _widen(writer, operands[0], WIDE), [batch, m, summed]
    )
    natural = contraction.natural
    joined = [*axes[:-2], m, n]

    def matrices() -> str:
        """Multiplies matrices, in batches or not."""
        right, other = _ordered(
            writer,
            _widen(writer, operands[1], WIDE),
            [batch, summed, n],
            [batch, n, summed],
        )
        return _dot(writer, (left, axes), (right, other), joined, summed)

    def row() -> str:
        """Multiplies the first row, which is the only one."""
        return _row(writer, (left, axes), operands[1], joined, summed)

    could = contraction.rhs == summed + n and not batch
    rows = writer.length(m)
    if not could or None in (writer.length(summed), writer.length(n)):
        result = matrices()
    elif rows is not None:
        result = row() if rows == 1 else matrices()
    else:
        index = _less_one(writer, m)
        result = writer.branches(index, writer.kind(joined, SUM), row, matrices)
    name = writer.reshape(result, joined, natural, SUM)
    last = writer.convert(Value(name, natural, SUM), elements[2])
    return writer.lines, last.name


def lengths(
    contraction: equations.Contraction, lhs: Lengths, rhs: Lengths
) -> dict[str, int | None]:
    """Returns each label's length, where either operand knows it."""
    found = dict(zip(contraction.rhs, rhs, strict=True))
    return found | {
        label: length
        for label, length in zip(contraction.lhs, lhs, strict=True)
        if length is not None or label not in found
    }


def _free(labels: str, used: str) -> str:
    return "".join(label for label in labels if label not in used)


def _ordered(
    writer: Writer, value: Value, *orders: list[str]
) -> tuple[str, list[str]]:
    """Joins the axes in the first order that they have, or else get."""
    fitting = [o for o in orders if "".join(o) == value.labels]
    order = (fitting or orders)[0]
    if not fitting:
        value = writer.transpose(value, "".join(order))
    axes = order if order[0] else order[1:]  # no batch
    return writer.reshape(value.name, value.labels, axes, WIDE), axes


def _dot(
    writer: Writer,
    left: tuple[str, list[str]],
    right: tuple[str, list[str]],
    out: list[str],
    summed: str,
) -> str:
    """Multiplies joined operands: names and axes."""
    batch = len(out) - 2
    batching = "batching_dims = [0] x [0], " if batch else ""
    axis = right[1].index(summed, batch)
    types = [writer.kind(axes, WIDE) for _, axes in (left, right)]
    return writer.add(
        f"dot_general {left[0]}, {right[0]}, {batching}"
        f"contracting_dims = [{batch + 1}] x [{axis}]"
        f" : ({', '.join(types)}) -> {writer.kind(out, SUM)}"
    )


def _less_one(writer: Writer, labels: str) -> str:
    """Returns the length of a joined axis less one, as a `tensor<i32>`."""
    size = writer.size(labels)
    size = writer.add(f"reshape {size} : (tensor<1xi32>) -> tensor<i32>")
    one = writer.add("constant dense<1> : tensor<i32>")
    return writer.add(f"subtract {size}, {one} : tensor<i32>")


def _row(
    writer: Writer,
    left: tuple[str, list[str]],
    right: Operand,
    out: list[str],
    summed: str,
) -> str:
    """Multiplies the first row of a matrix: name and axes.

    Several products are added before they are added to the sum, which is then
    loaded and stored less often.
    """
    k, n = writer.length(summed) or 0, writer.length(out[1]) or 0
    each = next(chunk for chunk in CHUNKS if k % chunk == 0)
    count = k // each
    x, kernel = _first(writer, left, k), _widen(writer, right, SUM)
    apart = writer.cast("reshape", x, (1, k), (count, each), SUM)
    shape = tensor_type((count, each, n), SUM)
    parts = writer.add(
        f"reshape {kernel.name} : ({writer.kind(right.labels, SUM)}) -> {shape}"
    )
    rows, total = tensor_type((count, n), SUM), ""
    for at in range(each):
        cut = f"[0:{count}, {at}:{at + 1}"
        column = writer.cast(
            "slice", apart, (count, each), (count, 1), SUM, f" {cut}]"
        )
        column = writer.cast(
            *("broadcast_in_dim", column, (count, 1), (count, n), SUM),
            ", dims = [0, 1]",
        )
        some = writer.cast(
            *("slice", parts, (count, each, n), (count, 1, n), SUM),
            f" {cut}, 0:{n}]",
        )
        some = writer.cast("reshape", some, (count, 1, n), (count, n), SUM)
        some = writer.add(f"multiply {column}, {some} : {rows}")
        total = writer.add(f"add {total}, {some} : {rows}") if at else some
    zero = writer.add(f"constant dense<0.0> : tensor<{SUM}>")
    total = writer.add(
        f"reduce({total} init: {zero}) applies stablehlo.add across "
        f"dimensions = [0] : ({rows}, tensor<{SUM}>) -> "
        f"{tensor_type((n,), SUM)}"
    )
    return _as_rows(writer, total, out)


def _first(writer: Writer, matrix: tuple[str, list[str]], k: int) -> str:
    """Returns the first row, one of zeros if there is none."""
    name, axes = matrix
    given, rows = writer.kind(axes, WIDE), writer.length(axes[0])
    if rows != 1:
        zero = writer.add(f"constant dense<0.0> : tensor<{WIDE}>")
        more = tensor_type((None, k), WIDE)
        name = writer.add(
            f"pad {name}, {zero}, low = [0, 0], high = [1, 0], interior = "
            f"[0, 0] : ({given}, tensor<{WIDE}>) -> {more}"
        )
        name = writer.cast(
            "slice", name, (None, k), (1, k), WIDE, f" [0:1, 0:{k}]"
        )
    kinds = (tensor_type((1, k), element) for element in (WIDE, SUM))
    return writer.add(f"convert {name} : ({next(kinds)}) -> {next(kinds)}")


def _as_rows(writer: Writer, row: str, out: list[str]) -> str:
    """Returns a vector as a matrix of such rows."""
    rows, n = (writer.length(labels) for labels in out)
    given = tensor_type((n,), SUM)
    if rows == 1:
        return writer.cast("reshape", row, (n,), (1, n), SUM)
    sizes = [writer.size(labels) for labels in out]
    shape = writer.add(
        f"concatenate {sizes[0]}, {sizes[1]}, dim = 0 : "
        "(tensor<1xi32>, tensor<1xi32>) -> tensor<2xi32>"
    )
    return writer.add(
        f"dynamic_broadcast_in_dim {row}, {shape}, dims = [1] : "
        f"({given}, tensor<2xi32>) -> {writer.kind(out, SUM)}"
    )


def _widen(writer: Writer, operand: Operand, element: str) -> Value:
    """Converts an operand; lengths that the other has become known.

    FP8 of known lengths by its bits, as float16 that is a power of two
    smaller: XLA's own conversion takes a CPU twice as long.
    """
    labels = operand.labels
    wide = writer.kind(labels, element)
    held = operand.kind.rpartition("x")[2].rstrip(">")
    if "?" in operand.kind or held not in FLOAT8:
        name = writer.add(
            f"convert {operand.name} : ({operand.kind}) -> {wide}"
        )
        return Value(name, labels, element)
    half = _as_half(writer, operand, e4m3=held == FLOAT8[0])
    name = writer.add(
        f"convert {half} : ({writer.kind(labels, 'f16')}) -> {wide}"
    )
    if held == FLOAT8[0]:
        power = writer.add(f"constant dense<256.0> : {wide}")
        name = writer.add(f"multiply {name}, {power} : {wide}")
    return Value(name, labels, element)


def _as_half(writer: Writer, operand: Operand, e4m3: bool) -> str:
    """Returns an FP8 operand's values as float16, those of E4M3 / 256.

    E4M3  seeeemmm  ->  s0eeeemmm0000000     NaN: s1111111...
    E5M2  seeeeemm  ->  seeeeemm00000000
    """
    i8, i16, f16 = (
        writer.kind(operand.labels, kind) for kind in ("i8", "i16", "f16")
    )

    def number(value: int) -> str:
        return writer.add(f"constant dense<{value}> : {i16}")

    def op(name: str, x: str, value: int) -> str:
        return writer.add(f"{name} {x}, {number(value)} : {i16}")

    bits = writer.add(
        f"bitcast_convert {operand.name} : ({operand.kind}) -> {i8}"
    )
    bits = writer.add(f"convert {bits} : ({i8}) -> {i16}")
    if e4m3:
        nan = op("add", op("and", bits, 0x7F), 1)
        nan = op("shift_left", op("and", nan, 0x80), 7)
        bits = op("and", op("shift_left", bits, 7), ~0x407F)
        bits = writer.add(f"or {bits}, {nan} : {i16}")
    else:
        bits = op("shift_left", bits, 8)
    return writer.add(f"bitcast_convert {bits} : ({i16}) -> {f16}")
