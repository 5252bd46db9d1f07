"""What a product of an HLO program multiplies: its sizes, and its FLOPs."""

from __future__ import annotations

import math
import re

from tfmp.cost_model import Product

Lengths = tuple[int, ...]
AXES = r'_dim(?:ension)?s"?[=:]\s*[\[{]([^\]}]*)'
LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
WINDOW = re.compile(r"window=\{([^}]*)\}")
GROUPS = re.compile(r"_group_count=(\d+)")


def measure(
    text: str, lhs: Lengths, rhs: Lengths, out: Lengths
) -> tuple[str, int]:
    """Returns the sizes of a product, as `m x k x n`, and its FLOPs.

    Two FLOPs are one multiply-add.  The zeros with which a convolution pads,
    or spreads a factor, are not multiplied by: so the three products of one
    convolution have equal FLOPs, as those of a matrix product have.

    Args:
        text: the attributes of a `dot`, a `convolution` or a library call.
        lhs: lengths of the axes of the first factor.
        rhs: of the second.
        out: of the result.
    """
    labels = LABELS.search(text)
    if labels is None:
        product = _dot(text, lhs, rhs)
        return str(product), product.flops
    return _convolution(text, labels.groups(), lhs, rhs, out)


def _dot(text: str, lhs: Lengths, rhs: Lengths) -> Product:
    batch = math.prod(lhs[axis] for axis in _axes("lhs_batch", text))
    k = math.prod(lhs[axis] for axis in _axes("lhs_contracting", text))
    whole = max(1, batch * k)
    return Product(math.prod(lhs) // whole, k, math.prod(rhs) // whole, batch)


def _axes(name: str, text: str) -> list[int]:
    found = re.search(name + AXES, text)
    return [int(n) for n in re.findall(r"\d+", found.group(1))] if found else []


def _convolution(
    text: str, labels: tuple[str, ...], lhs: Lengths, rhs: Lengths, out: Lengths
) -> tuple[str, int]:
    inputs, kernel, result = (
        dict(zip(names, lengths, strict=False))
        for names, lengths in zip(labels, (lhs, rhs, out), strict=True)
    )
    axes = sorted(label for label in result if label.isdigit())
    groups = math.prod(int(count) for count in GROUPS.findall(text))
    size = Product(
        m=result["b"] * math.prod(result[axis] for axis in axes),
        k=kernel["i"] * math.prod(kernel[axis] for axis in axes),
        n=result["f"] // groups,
        batch=groups,
    )
    found = WINDOW.search(text)
    window = _window(found.group(1) if found else "")
    pairs = 1
    for at, axis in enumerate(axes):
        lengths = inputs[axis], kernel[axis], result[axis]
        pairs *= _pairs(*lengths, {k: v[at] for k, v in window.items()})
    return str(size), 2 * pairs * result["b"] * result["f"] * kernel["i"]


def _window(text: str) -> dict[str, list[str]]:
    """Returns the settings of a window, each by axis."""
    settings = dict(item.split("=") for item in text.split())
    return {name: value.split("x") for name, value in settings.items()}


def _pairs(
    inputs: int, kernel: int, result: int, window: dict[str, str]
) -> int:
    """Returns how many elements of an axis meet elements of the kernel."""
    stride = int(window.get("stride", 1))
    low = int(window.get("pad", "0_0").split("_")[0])
    spread = int(window.get("lhs_dilate", 1))
    step = int(window.get("rhs_dilate", 1))
    places = (
        out * stride + at * step - low
        for out in range(result)
        for at in range(kernel)
    )
    last = (inputs - 1) * spread
    return sum(0 <= at <= last and at % spread == 0 for at in places)
