"""A product of FP8 operands, as the StableHLO that CPUs are fast at.

No CPU multiplies FP8; XLA would widen the operands to float32.  Here they are
widened to bfloat16, which holds every FP8 value, as CPUs with AVX512-BF16 (and
XLA with XNNPACK) multiply such in twice the rate of float32, accumulating in
float32.  XNNPACK wants `[batch, m, k] x [batch, k, n]`, or `[batch, n, k]`, in
the order of memory: an operand in another order is transposed, behind a
barrier, for XLA would put the transposition into the product again.

This module writes text, and knows nothing of TensorFlow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from tfmp._core import equations

WIDE, SUM = "bf16", "f32"
Lengths = Sequence["int | None"]


class Value(NamedTuple):
    """A named tensor: one label an axis, and the element type."""

    name: str
    labels: str
    element: str


class Operand(NamedTuple):
    """A tensor that is given: one label an axis, and its type."""

    name: str
    labels: str
    kind: str


class Writer:
    """Writes lines of StableHLO for labelled axes.

    Args:
        lengths: of each label's axis, None for one that is not known.
        operands: the tensors to look up unknown lengths in.
    """

    def __init__(
        self, lengths: dict[str, int | None], operands: Sequence[Operand]
    ) -> None:
        self.lines: list[str] = []
        self._lengths = lengths
        self._operands = operands
        self._numbers = itertools.count()

    def add(self, text: str) -> str:
        """Adds a line and returns the name of its result."""
        name = f"%v{next(self._numbers)}"
        self.lines.append(f"{name} = stablehlo.{text}")
        return name

    def kind(self, groups: Sequence[str], element: str) -> str:
        """Returns the type of a tensor with one axis a group of labels."""
        axes = [self._length(group) for group in groups]
        return tensor_type(axes, element)

    def widen(self, operand: Operand) -> Value:
        """Converts an operand; lengths that the other has become known."""
        wide = self.kind(operand.labels, WIDE)
        name = self.add(f"convert {operand.name} : ({operand.kind}) -> {wide}")
        return Value(name, operand.labels, WIDE)

    def convert(self, value: Value, element: str) -> Value:
        """Converts to another element type."""
        if value.element == element:
            return value
        types = [self.kind(value.labels, e) for e in (value.element, element)]
        name = self.add(f"convert {value.name} : ({types[0]}) -> {types[1]}")
        return Value(name, value.labels, element)

    def transpose(self, value: Value, labels: str) -> Value:
        """Orders the axes by `labels`, in memory too."""
        name, given, element = value
        order = [given.index(label) for label in labels]
        types = self.kind(given, element), self.kind(labels, element)
        name = self.add(
            f"transpose {name}, dims = {order} : ({types[0]}) -> {types[1]}"
        )
        # Flat, its order in memory is part of what it is.
        name = self.reshape(name, labels, [labels], element)
        flat = self.kind([labels], element)
        name = self.add(f"optimization_barrier {name} : {flat}")
        name = self.reshape(name, [labels], labels, element)
        return Value(name, labels, element)

    def reshape(
        self, name: str, given: Sequence[str], groups: Sequence[str], of: str
    ) -> str:
        """Joins or splits axes; a group of labels is one axis."""
        if list(given) == list(groups):
            return name
        types = f"({self.kind(given, of)}) -> {self.kind(groups, of)}"
        if all(self._length(group) is not None for group in groups):
            return self.add(f"reshape {name} : {types}")
        sizes = [self._size(group) for group in groups]
        one, all_ = "tensor<1xi32>", f"tensor<{len(groups)}xi32>"
        shape = self.add(
            f"concatenate {', '.join(sizes)}, dim = 0"
            f" : ({', '.join([one] * len(groups))}) -> {all_}"
        )
        types = types.replace(") ->", f", {all_}) ->")
        return self.add(f"dynamic_reshape {name}, {shape} : {types}")

    def _length(self, labels: str) -> int | None:
        product = 1
        for label in labels:
            length = self._lengths[label]
            if length is None:
                return None
            product *= length
        return product

    def _size(self, labels: str) -> str:
        """Returns the length of a joined axis, as a `tensor<1xi32>`."""
        one = "tensor<1xi32>"
        known = self._length("".join(x for x in labels if self._lengths[x]))
        total = self.add(f"constant dense<{known}> : {one}")
        for label in (x for x in labels if self._lengths[x] is None):
            owner = next(v for v in self._operands if label in v.labels)
            axis = owner.labels.index(label)
            size = self.add(
                f"get_dimension_size {owner.name}, dim = {axis}"
                f" : ({owner.kind}) -> tensor<i32>"
            )
            size = self.add(f"reshape {size} : (tensor<i32>) -> {one}")
            total = self.add(f"multiply {total}, {size} : {one}")
        return total


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
    wide = [writer.widen(operand) for operand in operands]
    left, axes = _ordered(writer, wide[0], [batch, m, summed])
    right, other = _ordered(
        writer, wide[1], [batch, summed, n], [batch, n, summed]
    )
    natural = contraction.natural
    joined = [*axes[:-2], m, n]
    result = _dot(writer, (left, axes), (right, other), joined, summed)
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


def tensor_type(lengths: Lengths, element: str) -> str:
    """Writes a tensor's type.

    >>> tensor_type([None, 8], "bf16")
    'tensor<?x8xbf16>'
    """
    axes = "".join(f"{'?' if n is None else n}x" for n in lengths)
    return f"tensor<{axes}{element}>"
