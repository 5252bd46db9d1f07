"""Einsum equations of two operands as dimension numbers; no TensorFlow.

A contraction multiplies two operands whose axes carry labels.  A label is

    batch         in both operands and in the result
    contracting   in both operands, not in the result: summed over
    free          in one operand and in the result

which is what `stablehlo.dot_general` can express.  The gradient of each
operand is again such a contraction, of the result's gradient and the other
operand.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence

Shape = Sequence["int | None"]


@dataclasses.dataclass(frozen=True)
class Contraction:
    """The labels of `out = sum(lhs * rhs)`, one letter an axis.

    >>> c = Contraction("bij", "jk", "bik")
    >>> c.contracting, c.contracting_axes
    ('j', ((2,), (0,)))
    >>> c.lhs_gradient
    Contraction(lhs='bik', rhs='jk', out='bij')
    """

    lhs: str
    rhs: str
    out: str

    def product(self, name: str) -> Contraction:
        """Returns `"output"`, `"input_grad"` or `"kernel_grad"`."""
        products = {
            "output": self,
            "input_grad": self.lhs_gradient,
            "kernel_grad": self.rhs_gradient,
        }
        return products[name]

    @property
    def batch(self) -> str:
        """Labels in both operands and the result."""
        return "".join(c for c in self.lhs if c in self.rhs and c in self.out)

    @property
    def contracting(self) -> str:
        """Labels that are summed over."""
        return "".join(
            c for c in self.lhs if c in self.rhs and c not in self.out
        )

    @property
    def batch_axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of the batch labels in each operand."""
        return self._axes(self.batch)

    @property
    def contracting_axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of the contracting labels in each operand."""
        return self._axes(self.contracting)

    def _axes(self, labels: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        lhs = tuple(self.lhs.index(c) for c in labels)
        return lhs, tuple(self.rhs.index(c) for c in labels)

    @property
    def natural(self) -> str:
        """The result's labels in `dot_general`'s order."""
        used = self.batch + self.contracting
        free = [c for c in self.lhs + self.rhs if c not in used]
        return self.batch + "".join(free)

    @property
    def permutation(self) -> tuple[int, ...]:
        """Takes the natural order to the order of `out`."""
        return tuple(self.natural.index(c) for c in self.out)

    @property
    def lhs_gradient(self) -> Contraction:
        """Of the result's gradient and `rhs`: the gradient of `lhs`."""
        return Contraction(self.out, self.rhs, self.lhs)

    @property
    def rhs_gradient(self) -> Contraction:
        """Of `lhs` and the result's gradient: the gradient of `rhs`."""
        return Contraction(self.lhs, self.out, self.rhs)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A contraction, and what to do with axes that broadcast before it.

    An ellipsis axis of length 1 that the other operand has longer is dropped:
    without it, the other operand's label is simply free.  Where a length is
    unknown, it has to be looked at as the program runs.

    Attributes:
        contraction: of what is left.
        repeat: pairs of axes, of which one may have a length of 1 then.
        lhs_squeeze, rhs_squeeze: the axes to drop.
    """

    contraction: Contraction
    lhs_squeeze: tuple[int, ...] = ()
    rhs_squeeze: tuple[int, ...] = ()
    repeat: tuple[tuple[int, int], ...] = ()


def parse(equation: str, lhs_shape: Shape, rhs_shape: Shape) -> Parsed:
    """Reads an einsum equation of two operands of known rank.

    Args:
        equation: as in `np.einsum`: `"ab,bc->ac"`, `"...ab,bc->...ac"`, or
            without `"->"`, when the result has the labels that occur once, in
            alphabetical order.
        lhs_shape: the first operand's shape; None for an unknown length.
        rhs_shape: the second operand's.

    Returns:
        A `Parsed`.

    Raises:
        TypeError: if `equation` is not a string.
        ValueError: if it is malformed, does not fit the shapes, or cannot be
            expressed as one product of two operands.

    >>> parse("...a,ab->...b", (None, 7, 4), (4, 8)).contraction
    Contraction(lhs='YZa', rhs='ab', out='YZb')
    """
    lhs, rhs, out = _split(equation)
    lhs, lhs_dots = _expand(equation, "first", lhs, len(lhs_shape))
    rhs, rhs_dots = _expand(equation, "second", rhs, len(rhs_shape))
    out = _expand_result(
        equation, lhs, rhs, out, max(lhs_dots, rhs_dots, key=len)
    )
    _check_labels(equation, lhs, rhs, out)
    lhs_drop, rhs_drop = _broadcast(equation, lhs, rhs, lhs_shape, rhs_shape)
    dots = (c for c in lhs_dots if c in rhs_dots)
    pairs = [(lhs.index(c), rhs.index(c)) for c in dots]
    return Parsed(
        Contraction(
            "".join(c for c in lhs if c not in lhs_drop),
            "".join(c for c in rhs if c not in rhs_drop),
            out,
        ),
        tuple(lhs.index(c) for c in lhs_drop),
        tuple(rhs.index(c) for c in rhs_drop),
        tuple(
            (i, j)
            for i, j in pairs
            if None in (lhs_shape[i], rhs_shape[j])
            and 1 not in (lhs_shape[i], rhs_shape[j])
        ),
    )


def matmul(
    lhs_rank: int, rhs_rank: int, transpose_a: bool, transpose_b: bool
) -> str:
    """Returns the equation of `tf.linalg.matmul` for operands of any rank.

    Raises:
        ValueError: if an operand has a rank below 2.

    >>> matmul(3, 2, transpose_a=False, transpose_b=True)
    '...ij,kj->...ik'
    """
    for name, rank in (("a", lhs_rank), ("b", rhs_rank)):
        if rank < 2:
            raise ValueError(
                f"`{name}` must have a rank of 2 or more. Received: rank {rank}"
            )
    lhs = ("..." if lhs_rank > 2 else "") + ("ji" if transpose_a else "ij")
    rhs = ("..." if rhs_rank > 2 else "") + ("kj" if transpose_b else "jk")
    dots = "..." if max(lhs_rank, rhs_rank) > 2 else ""
    return f"{lhs},{rhs}->{dots}ik"


def _error(equation: str, problem: str) -> ValueError:
    return ValueError(
        f"`equation` {problem}. Allowed: two operands whose labels are each "
        "shared, summed over in both, or kept in the result, such as "
        f"'ab,bc->ac' or '...ab,bc->...ac'. Received: {equation!r}"
    )


def _split(equation: str) -> tuple[str, str, str | None]:
    if not isinstance(equation, str):
        raise TypeError(f"`equation` must be a string. Received: {equation!r}")
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    operands = inputs.split(",")
    if len(operands) != 2:
        raise _error(equation, f"has {len(operands)} operands, not two")
    return operands[0], operands[1], result if arrow else None


def _expand(equation: str, which: str, term: str, rank: int) -> tuple[str, str]:
    """Replaces an ellipsis by the upper-case labels of its axes.

    Ellipsis axes align at the right, so the last is always labelled alike.
    """
    before, dots, after = term.partition("...")
    letters = before + after
    if not all(c in string.ascii_letters for c in letters):
        raise _error(equation, f"has a label that is no letter in '{term}'")
    missing = rank - len(letters)
    if missing < 0 or (missing and not dots):
        raise _error(
            equation,
            f"does not fit its {which} operand of rank {rank}: '{term}'",
        )
    free = [c for c in string.ascii_uppercase if c not in equation]
    if missing > len(free):
        raise _error(equation, f"has too many axes in '{term}'")
    labels = "".join(free[len(free) - missing :]) if missing else ""
    return before + labels + after, labels


def _expand_result(
    equation: str, lhs: str, rhs: str, out: str | None, labels: str
) -> str:
    if out is None:
        named = sorted(c for c in set(lhs + rhs) if c not in labels)
        return labels + "".join(c for c in named if (lhs + rhs).count(c) == 1)
    before, dots, after = out.partition("...")
    if labels and not dots:
        raise _error(equation, "drops the axes of its ellipsis")
    return before + labels + after


def _check_labels(equation: str, lhs: str, rhs: str, out: str) -> None:
    for term in (lhs, rhs, out):
        twice = sorted({c for c in term if term.count(c) > 1})
        if twice:
            raise _error(equation, f"repeats the label '{twice[0]}' in a term")
    for label in out:
        if label not in lhs + rhs:
            raise _error(equation, f"has '{label}' only in its result")
    for label in sorted(set(lhs) ^ set(rhs)):
        if label not in out:
            raise _error(
                equation,
                f"sums over '{label}', which only one operand has: reduce "
                "that operand before",
            )


def _broadcast(
    equation: str, lhs: str, rhs: str, lhs_shape: Shape, rhs_shape: Shape
) -> tuple[str, str]:
    """Finds ellipsis labels that one operand has with length 1 only."""
    lhs_drop = rhs_drop = ""
    for label in (c for c in lhs if c in rhs):
        left, right = lhs_shape[lhs.index(label)], rhs_shape[rhs.index(label)]
        if left == right:
            continue
        if label in equation or 1 not in (left, right):
            if left is None or right is None:
                continue
            raise ValueError(
                f"`equation` {equation!r} needs equal lengths for label "
                f"'{label}'. Received: `a` of shape {tuple(lhs_shape)} and "
                f"`b` of shape {tuple(rhs_shape)}"
            )
        lhs_drop += label if left == 1 else ""
        rhs_drop += label if right == 1 else ""
    return lhs_drop, rhs_drop
