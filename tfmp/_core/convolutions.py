"""Convolutions as windows and labels; no TensorFlow.

A convolution of `inputs` with `kernel` has three products, each of which is
again a convolution.  Along one axis, a kernel of length `size` reaches over
`reach = dilation * (size - 1)` steps more than one, and an input of length `n`
gives

    out     = (n + low + high - reach - 1) // stride + 1
    surplus = (n + low + high - reach - 1) % stride

where the last `surplus` elements meet no window.  From these follow

    product      operands        stride    padding
    output       inputs, kernel  stride    low, high
    input_grad   grads, kernel   1         reach - low, reach - high + surplus
    kernel_grad  inputs, grads   dilation  low, high - surplus

with the kernel reversed in `input_grad`; and wherever they are operands, with
zeros between the elements of `grads`, by the stride, and of the kernel, by the
dilation.  No product depends on a length.

A convolution that looks at one pixel at a time is a product of matrices, and
has their three products instead.

Which of them a GPU multiplies in FP8 is a property of the geometry too; see
`Convolution.float8_products`.
"""

from __future__ import annotations

import dataclasses

from tfmp._core import equations
from tfmp._core.windows import SPATIAL, Pairs, Shape, Window

# cuDNN has fast FP8 kernels for channels that fill 16 bytes.
ALIGNMENT = 16


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution with a kernel `[*kernel_size, channels / groups, filters]`.

    Attributes:
        kernel_size: lengths of the kernel's spatial axes.
        channels: of the inputs.
        filters: channels of the result.
        strides, dilation: one integer a spatial axis.
        padding: zeros before and after, one pair a spatial axis.
        surplus: elements at the end that meet no window.
        groups: that channels and filters fall into.
        channels_first: whether the channels come before the spatial axes.

    >>> c = Convolution((3,), 64, 10, (1,), (1,), ((1, 1),), (0,))
    >>> c.product("kernel_grad").lhs, c.product("kernel_grad").out
    ('f0b', '0bf')
    >>> c.float8_products()["input_grad"]
    'filters / groups = 10 is not a multiple of 16'
    """

    kernel_size: tuple[int, ...]
    channels: int
    filters: int
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pairs
    surplus: tuple[int, ...]
    groups: int = 1
    channels_first: bool = False

    @property
    def pointwise(self) -> bool:
        """Whether a pixel of the result is of one pixel of the inputs.

        >>> Convolution((1,), 3, 10, (1,), (1,), ((0, 0),), (0,)).pointwise
        True
        """
        padded = any(low or high for low, high in self.padding)
        return {*self.kernel_size, self.groups} == {1} and not padded

    @property
    def matrices(self) -> equations.Contraction:
        """A pointwise convolution of the inputs that strides do not skip.

        The kernel has the shape `[channels, filters]`.
        """
        pixels = "xyz"[: len(self.kernel_size)]
        inputs, out = ("b" + pixels + c for c in "io")
        if self.channels_first:
            inputs, out = ("b" + c + pixels for c in "io")
        return equations.Contraction(inputs, "io", out)

    def product(self, name: str) -> Window:
        """Returns `"output"`, `"input_grad"` or `"kernel_grad"`."""
        products = {
            "output": self._output,
            "input_grad": self._input_grad,
            "kernel_grad": self._kernel_grad,
        }
        return products[name]()

    def float8_products(
        self, lengths: Shape | None = None
    ) -> dict[str, str | None]:
        """Says why a product does not have FP8 operands; None if it has.

        A GPU's library has no FP8 kernel for every convolution, and what it
        lacks fails when the program runs.  Such a product takes operands of
        the compute dtype, on every device.  `kernel_grad` reads the FP8
        copies that `output` made, converted: no compiler gives it to an FP8
        kernel.

        Args:
            lengths: the inputs' spatial lengths; None for what is not known.
        """
        if self.pointwise:
            return dict.fromkeys(("output", "input_grad", "kernel_grad"))
        lengths = (
            (None,) * len(self.kernel_size) if lengths is None else lengths
        )
        results = [
            self._output().length(axis, n, size)
            for axis, (n, size) in enumerate(
                zip(lengths, self.kernel_size, strict=True)
            )
        ]
        image = self._small(lengths) or self._small(results)
        output = self._uneven("channels", self.channels) or image
        return {
            "output": output,
            "input_grad": self._uneven("filters", self.filters)
            or self._strided()
            or image,
            "kernel_grad": output and f"no FP8 copy of the inputs: {output}",
        }

    def _uneven(self, name: str, channels: int) -> str | None:
        each = channels // self.groups
        if each % ALIGNMENT == 0:
            return None
        return f"{name} / groups = {each} is not a multiple of {ALIGNMENT}"

    def _strided(self) -> str | None:
        if set(self.strides) == {1}:
            return None
        return f"strides {self.strides}: most factors would be zeros"

    def _small(self, lengths: Shape) -> str | None:
        # XLA swaps the operands of such a convolution, or takes it for a
        # kernel gradient; neither has an FP8 kernel.
        for n, size in zip(lengths, self.kernel_size, strict=True):
            if n is not None and n < size:
                return f"kernel_size {self.kernel_size} exceeds length {n}"
        return None

    def _data(self, batch: str, features: str) -> str:
        spatial = SPATIAL[: len(self.kernel_size)]
        if self.channels_first:
            return batch + features + spatial
        return batch + spatial + features

    def _output(self) -> Window:
        ones = (1,) * len(self.kernel_size)
        return Window(
            lhs=self._data("b", "f"),
            rhs=SPATIAL[: len(ones)] + "io",
            out=self._data("b", "f"),
            strides=self.strides,
            padding=self.padding,
            lhs_dilation=ones,
            rhs_dilation=self.dilation,
            feature_groups=self.groups,
        )

    def _input_grad(self) -> Window:
        ones = (1,) * len(self.kernel_size)
        reach = [
            d * (size - 1)
            for d, size in zip(self.dilation, self.kernel_size, strict=True)
        ]
        return Window(
            lhs=self._data("b", "f"),
            rhs=SPATIAL[: len(ones)] + "oi",
            out=self._data("b", "f"),
            strides=ones,
            padding=tuple(
                (r - low, r - high + surplus)
                for r, (low, high), surplus in zip(
                    reach, self.padding, self.surplus, strict=True
                )
            ),
            lhs_dilation=self.strides,
            rhs_dilation=self.dilation,
            feature_groups=self.groups,
            reverse=True,
        )

    def _kernel_grad(self) -> Window:
        ones = (1,) * len(self.kernel_size)
        return Window(
            lhs=self._data("f", "b"),
            rhs=self._data("i", "o"),
            out=SPATIAL[: len(ones)] + "bf",
            strides=self.dilation,
            padding=tuple(
                (low, high - surplus)
                for (low, high), surplus in zip(
                    self.padding, self.surplus, strict=True
                )
            ),
            lhs_dilation=ones,
            rhs_dilation=self.strides,
            batch_groups=self.groups,
            widen=True,
            lengths=self.kernel_size,
        )
