"""Lines of StableHLO for labelled axes, of lengths known and unknown.

This module writes text, and knows nothing of TensorFlow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
        axes = [self.length(group) for group in groups]
        return tensor_type(axes, element)

    def branches(self, index: str, kind: str, *each: Callable[[], str]) -> str:
        """Adds a choice: the branch of that index, any other is the last.

        Args:
            index: a name, `tensor<i32>`.
            kind: the type of what all give.
            *each: adds the lines of a branch, and returns its result's name.
        """
        outer, regions = self.lines, []
        for write in each:
            self.lines = []
            last = f"stablehlo.return {write()} : {kind}"
            regions.append("\n".join([*self.lines, last]))
        self.lines = outer
        text = "\n}, {\n".join(regions)
        name = f"%v{next(self._numbers)}"
        self.lines.append(
            f'{name} = "stablehlo.case"({index}) ({{\n{text}\n}})'
            f" : (tensor<i32>) -> {kind}"
        )
        return name

    def cast(
        self,
        name: str,
        x: str,
        given: Lengths,
        out: Lengths,
        of: str,
        more: str = "",
    ) -> str:
        """Adds an operation from one shape to another, of one element type."""
        kinds = tensor_type(given, of), tensor_type(out, of)
        return self.add(f"{name} {x}{more} : ({kinds[0]}) -> {kinds[1]}")

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
        if all(self.length(group) is not None for group in groups):
            return self.add(f"reshape {name} : {types}")
        sizes = [self.size(group) for group in groups]
        one, all_ = "tensor<1xi32>", f"tensor<{len(groups)}xi32>"
        shape = self.add(
            f"concatenate {', '.join(sizes)}, dim = 0"
            f" : ({', '.join([one] * len(groups))}) -> {all_}"
        )
        types = types.replace(") ->", f", {all_}) ->")
        return self.add(f"dynamic_reshape {name}, {shape} : {types}")

    def length(self, labels: str) -> int | None:
        """Returns the length of a joined axis, None if it is not known."""
        product = 1
        for label in labels:
            length = self._lengths[label]
            if length is None:
                return None
            product *= length
        return product

    def size(self, labels: str) -> str:
        """Returns the length of a joined axis, as a `tensor<1xi32>`."""
        one = "tensor<1xi32>"
        known = self.length("".join(x for x in labels if self._lengths[x]))
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


def tensor_type(lengths: Lengths, element: str) -> str:
    """Writes a tensor's type.

    >>> tensor_type([None, 8], "bf16")
    'tensor<?x8xbf16>'
    """
    axes = "".join(f"{'?' if n is None else n}x" for n in lengths)
    return f"tensor<{axes}{element}>"
