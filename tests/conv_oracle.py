"""What a convolution and its gradients must give, by NumPy alone.

    y[p]  = sum over k of x[p * stride + k * dilation - low] . w[k]

written as a loop over the kernel's elements, from which both gradients follow
line by line.  `test_conv_ops.py` holds it against `keras.ops.conv`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import oracles


class Case(NamedTuple):
    """A convolution, channels last; its kernel is the same along each axis."""

    lengths: tuple[int, ...]
    size: int
    stride: int = 1
    dilation: int = 1
    padding: str = "valid"
    groups: int = 1
    channels: int = 16
    filters: int = 16

    @property
    def rank(self) -> int:
        return len(self.lengths)

    @property
    def reach(self) -> int:
        return self.dilation * (self.size - 1)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        each = self.channels // self.groups
        return (*[self.size] * self.rank, each, self.filters)

    @property
    def result_lengths(self) -> tuple[int, ...]:
        if self.padding == "valid":
            return tuple(
                (n - self.reach - 1) // self.stride + 1 for n in self.lengths
            )
        return tuple(math.ceil(n / self.stride) for n in self.lengths)

    def inputs_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, *self.lengths, self.channels)

    def grads_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, *self.result_lengths, self.filters)

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "strides": self.stride,
            "padding": self.padding,
            "data_format": "channels_last",
            "dilation_rate": self.dilation,
        }

    def padded_lengths(self) -> list[tuple[int, int]]:
        """Returns, for each axis, the zeros before, and the length then."""
        found = []
        for n, out in zip(self.lengths, self.result_lengths, strict=True):
            needed = (out - 1) * self.stride + self.reach + 1
            low = {
                "valid": 0,
                "causal": self.reach,
                "same": max(needed - n, 0) // 2,
            }[self.padding]
            found.append((low, max(needed, low + n)))
        return found


def convolve(
    case: Case, x: np.ndarray, w: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns `y`, `dx` and `dw` in float64."""
    groups, batch = case.groups, len(x)
    padded = case.padded_lengths()
    inner = tuple(
        slice(low, low + n)
        for (low, _), n in zip(padded, case.lengths, strict=True)
    )
    whole = np.zeros(
        (batch, *[n for _, n in padded], groups, x.shape[-1] // groups)
    )
    whole[(slice(None), *inner)] = x.reshape(*x.shape[:-1], groups, -1)
    kernel = w.reshape(*w.shape[:-1], groups, -1)  # [*size, c, groups, f]
    dy = dy.reshape(*dy.shape[:-1], groups, -1)
    y, d_whole, dw = (
        np.zeros(dy.shape),
        np.zeros(whole.shape),
        np.zeros(kernel.shape),
    )
    for k in itertools.product(range(case.size), repeat=case.rank):
        at = tuple(
            slice(
                i * case.dilation,
                i * case.dilation + (out - 1) * case.stride + 1,
                case.stride,
            )
            for i, out in zip(k, case.result_lengths, strict=True)
        )
        at = (slice(None), *at)
        y += np.einsum("...gc,cgf->...gf", whole[at], kernel[k])
        d_whole[at] += np.einsum("...gf,cgf->...gc", dy, kernel[k])
        dw[k] = np.einsum(
            "zgc,zgf->cgf",
            *(t.reshape(-1, *t.shape[-2:]) for t in (whole[at], dy)),
        )
    dx = d_whole[(slice(None), *inner)]
    return (
        y.reshape(*y.shape[:-2], -1),
        dx.reshape(x.shape),
        dw.reshape(w.shape),
    )


def products(
    case: Case,
    tensors: dict[str, np.ndarray],
    recipe: Any,
    wide: Any = (),
    amax: Any = None,
) -> oracles.Products:
    """Returns what a convolution and its gradients must give.

    Args:
        case: the convolution.
        tensors: `inputs` and `grads` of the compute dtype, `kernel`.
        recipe: as for `oracles.products`.
        wide: the products that take operands of the compute dtype.
        amax: for delayed scaling, three numbers.
    """
    low, high = oracles.operands(tensors, recipe, amax)
    dtype = tensors["inputs"].dtype.name
    counts = {
        "output": case.size**case.rank * case.channels // case.groups,
        "input_grad": case.size**case.rank * case.filters // case.groups,
        "kernel_grad": math.prod(tensors["grads"].shape[:-1]),
    }
    roles = {
        "output": ("inputs", "kernel"),
        "input_grad": ("grads", "kernel"),
        "kernel_grad": ("inputs", "grads"),
    }
    found, used = [], set()
    for at, (name, count) in enumerate(counts.items()):
        values = high if name in wide else low
        used |= set() if name in wide else set(roles[name])
        of = [values[role] for role in oracles.ROLES]
        value = convolve(case, *of)[at]
        magnitude = convolve(case, *map(np.abs, of))[at]
        found.append(oracles.bounded(value, magnitude, count, dtype))
    used = set() if oracles.constants(recipe) else used
    observed = [
        oracles.largest(x) if role in used else 0.0
        for role, x in tensors.items()
    ]
    return oracles.Products(*found, observed)
