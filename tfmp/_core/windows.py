"""One convolution as `stablehlo.convolution` takes it; no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

Shape = Sequence["int | None"]
Pairs = tuple[tuple[int, int], ...]

SPATIAL = "012"


@dataclasses.dataclass(frozen=True)
class Window:
    """One `stablehlo.convolution`: which axis is what, and how it moves.

    Labels are one letter an axis: `0`, `1`, `2` for spatial axes, `b` and `f`
    for batch and features; in the kernel `i` and `o` for the features that it
    takes and gives.

    >>> Window("b0f", "0io", "b0f", (2,), ((1, 1),), (1,), (1,)).result_shape(
    ...     (None, 8, 16), (3, 16, 32))
    [None, 4, 32]

    Attributes:
        lhs, rhs, out: labels of the operands and of the result.
        strides: steps of the window, one a spatial axis.
        padding: zeros before and after; negative numbers cut off.
        lhs_dilation, rhs_dilation: distance of neighbouring elements.
        feature_groups: groups that the features of `lhs` fall into.
        batch_groups: groups that the batch of `lhs` falls into.
        reverse: whether `rhs` is a kernel to reverse along its spatial axes,
            its groups moved from `i` to `o`.
        widen: whether FP8 operands are converted to the compute dtype.
        lengths: the result's spatial lengths, if they follow from no other.
    """

    lhs: str
    rhs: str
    out: str
    strides: tuple[int, ...]
    padding: Pairs
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    feature_groups: int = 1
    batch_groups: int = 1
    reverse: bool = False
    widen: bool = False
    lengths: tuple[int, ...] | None = None

    @property
    def permutation(self) -> tuple[int, ...]:
        """Takes the result's axes to their order: they are in order."""
        return tuple(range(len(self.out)))

    @property
    def spatial(self) -> str:
        """Labels of the spatial axes."""
        return SPATIAL[: len(self.strides)]

    def regrouped(self, kernel: Sequence[int]) -> list[tuple[int, ...]]:
        """Returns the shapes by which the groups go over from `i` to `o`.

        A reshape to the first, its axes before the last but one swapped
        (`[..., i, g, o]` to `[..., g, i, o]`), and a reshape to the second.
        """
        *lengths, taken, given = kernel
        each = given // self.feature_groups
        return [
            (*lengths, taken, self.feature_groups, each),
            (*lengths, taken * self.feature_groups, each),
        ]

    def result_shape(self, lhs: Shape, rhs: Shape) -> list[int | None]:
        """Returns the result's shape, None for what is not known.

        Args:
            lhs: shape of the first operand.
            rhs: shape of the second, its groups not yet moved.
        """
        batch = lhs[self.lhs.index("b")]
        given = rhs[self.rhs.index("o")]
        if given is not None and self.reverse:
            given *= self.feature_groups
        found = {
            "b": None if batch is None else batch // self.batch_groups,
            "f": given,
        }
        for axis, label in enumerate(self.spatial):
            pair = lhs[self.lhs.index(label)], rhs[self.rhs.index(label)]
            found[label] = self.length(axis, *pair)
        return [found[label] for label in self.out]

    def length(self, axis: int, n: int | None, size: int | None) -> int | None:
        """Returns how often a window of length `size` fits along an axis."""
        if self.lengths is not None:
            return self.lengths[axis]
        if n is None or size is None:
            return None
        n = self.lhs_dilation[axis] * (n - 1) + 1 if n else 0
        reach = self.rhs_dilation[axis] * (size - 1)
        room = n + sum(self.padding[axis]) - reach - 1
        return max(room // self.strides[axis] + 1, 0)
