"""What a training step of one contraction costs in bfloat16 and in FP8.

The three products of a contraction, each limited by arithmetic or memory:

    time = max(flops / rate, bytes / bandwidth) + launch

FP8 doubles the rate and halves the bytes of operands.  Against that stand
reading each tensor once more for its amax and once to quantize it, a few more
kernels, and a copy of every operand that has to be padded:

    speedup = bfloat16 time / (FP8 time + quantization + padding)

The rates are what large products reach, not the data sheet's peaks: of an
H200 as the table says, of the others in the same proportion to their peaks.

| target  | bfloat16 TFLOP/s | FP8 TFLOP/s | memory TB/s |
|---------|------------------|-------------|-------------|
| h200    | 788 (measured)   | 1453 (vendor's table, 8192**3) | 4.8 |
| h100    | 788              | 1453        | 3.35        |
| b200    | 1790             | 3300        | 8.0         |
| l40s    | 288              | 538         | 0.864       |
| l4      | 96               | 178         | 0.3         |
| rtx4090 | 132              | 242         | 1.008       |

The peaks, in TFLOP/s on tensor cores without sparsity (data sheets give those
of TF32, bfloat16 and FP8 with it, which is twice as much):

| target     | float64 | TF32 | bfloat16 | FP8  |
|------------|---------|------|----------|------|
| h100, h200 | 67      | 495  | 989      | 1979 |
| b200       | 40      | 1100 | 2250     | 4500 |
| l40s       | 1.43    | 183  | 362      | 733  |
| l4         | 0.47    | 60   | 121      | 242  |
| rtx4090    | 1.29    | 83   | 165      | 330  |

Those of float64 are not on tensor cores where there are none for it: L40S, L4
and RTX 4090 have a 64th of their float32 rate.  A GeForce has half the rate
where sums are float32, as cuBLASLt's FP8 and bfloat16 products have them.

Sources: NVIDIA, H100 Tensor Core GPU Architecture (2022; SXM5) and data sheets
of H100 and H200 (SXM); Blackwell Architecture Technical Brief (2024; B200 of an
HGX board at 1,000 W, of which later data sheets give 37 TFLOP/s in float64 and
7.7 TB/s); data sheets of L40S and L4 (2023); Ada GPU Architecture (2022; RTX
4090).
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from tfmp._support import checks

BREAK_EVEN = 1.05  # a gain below that is not worth the loss of accuracy
ALIGNMENT = 16  # what the FP8 kernels of cuBLASLt ask of every dimension
EXTRA_KERNELS = 8  # amax and quantize, as counted in compiled programs
BFLOAT16, FLOAT8, FLOAT32 = 2, 1, 4  # bytes


@dataclasses.dataclass(frozen=True)
class Target:
    """A device, by the numbers that matter to a matrix product.

    Args:
        name: for reports.
        bfloat16: TFLOP/s that a large product reaches.
        float8: the same in FP8.
        bandwidth: of its memory, TB/s.
        launch: microseconds a kernel costs beyond its work.

    Raises:
        TypeError: if a number is not one.
        ValueError: if it is not above zero.

    >>> Target("mine", bfloat16=400, float8=700, bandwidth=2.0).launch
    2.5
    """

    name: str
    bfloat16: float
    float8: float
    bandwidth: float
    launch: float = 2.5

    def __post_init__(self) -> None:
        checks.instance("name", self.name, str, "a string")
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            checks.number(field.name, value, math.ulp(0.0), math.inf)


TARGETS = {
    "h200": Target("h200", 788, 1453, 4.8),
    "h100": Target("h100", 788, 1453, 3.35),
    "b200": Target("b200", 1790, 3300, 8.0),
    "l40s": Target("l40s", 288, 538, 0.864),
    "l4": Target("l4", 96, 178, 0.3),
    "rtx4090": Target("rtx4090", 132, 242, 1.008),
}


class _Peaks(NamedTuple):
    """TFLOP/s of a data sheet, dense; float32 products are TF32."""

    float64: float
    float32: float
    bfloat16: float
    float8: float


HOPPER = _Peaks(67, 495, 989, 1979)
PEAKS = {
    "h200": HOPPER,
    "h100": HOPPER,
    "b200": _Peaks(40, 1100, 2250, 4500),
    "l40s": _Peaks(1.43, 183, 362, 733),
    "l4": _Peaks(0.47, 60, 121, 242),
    "rtx4090": _Peaks(1.29, 83, 165, 330),
}


def get(target: object) -> Target:
    """Finds a target by value or by a name of `TARGETS`.

    Raises:
        TypeError: if it is neither.
        ValueError: if the name is unknown.

    >>> get("h200").float8
    1453
    """
    if isinstance(target, Target):
        return target
    return TARGETS[checks.choice("target", target, tuple(TARGETS))]


@dataclasses.dataclass(frozen=True)
class Product:
    """A contraction as matrix products: `batch` times `[m, k] @ [k, n]`.

    Args:
        m: rows of the inputs, such as tokens or pixels.
        k: what is summed over.
        n: columns of the kernel.
        batch: how many such products.
        inputs: elements of the inputs; by default `batch * m * k`, less where
            a convolution's windows overlap.
        float8: which of output, input gradient and kernel gradient can run
            in FP8 at all.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a length is negative, or `float8` is not three.

    >>> Product(4096, 1024, 2048).flops
    17179869184
    """

    m: int
    k: int
    n: int
    batch: int = 1
    inputs: int | None = None
    float8: tuple[bool, bool, bool] = (True, True, True)

    def __post_init__(self) -> None:
        for name in ("m", "k", "n", "batch"):
            checks.integer(name, getattr(self, name), 0)
        if self.inputs is not None:
            checks.integer("inputs", self.inputs, 0)
        flags = checks.instance("float8", self.float8, tuple, "a tuple")
        if len(flags) != 3:
            raise ValueError(
                f"`float8` must be three of True or False. Received: {flags}"
            )
        for flag in flags:
            checks.boolean("float8", flag)

    @property
    def flops(self) -> int:
        """Of the output: two for each multiply-add."""
        return 2 * self.batch * self.m * self.k * self.n

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Elements of inputs, kernel and output."""
        inputs = self.batch * self.m * self.k
        if self.inputs is not None:
            inputs = self.inputs
        kernel, output = self.k * self.n, self.m * self.n
        return inputs, self.batch * kernel, self.batch * output

    def __str__(self) -> str:
        text = f"{self.m} x {self.k} x {self.n}"
        return text if self.batch == 1 else f"{self.batch} of {text}"


def bfloat16_time(product: Product, target: Target | str) -> float:
    """Returns the seconds of the three products in bfloat16.

    >>> round(1e6 * bfloat16_time(Product(4096, 4096, 4096), get("h200")))
    531
    """
    return 3 * _product_time(_checked(product), get(target), low=False)


def float8_time(product: Product, target: Target | str) -> float:
    """Returns the seconds in FP8, with all that goes with it.

    >>> round(1e6 * float8_time(Product(4096, 4096, 4096), get("h200")))
    378
    """
    product, target = _checked(product), get(target)
    times = [_product_time(product, target, low) for low in product.float8]
    return sum(times) + _quantization_time(product, target)


def speedup(product: Product, target: Target | str) -> float:
    """Returns how many times faster a training step is in FP8.

    Args:
        product: a `Product`.
        target: a `Target` or a name of `TARGETS`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the target's name is unknown.

    >>> round(speedup(Product(8192, 8192, 8192), "h200"), 2)
    1.64
    >>> round(speedup(Product(1024, 1024, 1024), "h200"), 2)
    0.43
    """
    return bfloat16_time(product, target) / float8_time(product, target)


def _checked(product: object) -> Product:
    said = "a tfmp.cost_model.Product"
    found: Product = checks.instance("product", product, Product, said)
    return found


def _product_time(product: Product, target: Target, low: bool) -> float:
    """Any of the three: two of its tensors are read and one is written."""
    rate = target.float8 if low else target.bfloat16
    largest = max(product.sizes)
    operand = FLOAT8 if low else BFLOAT16
    memory = operand * (sum(product.sizes) - largest) + BFLOAT16 * largest
    arithmetic = product.flops / (rate * 1e12)
    launch = target.launch * 1e-6
    return max(arithmetic, memory / (target.bandwidth * 1e12)) + launch


def _quantization_time(product: Product, target: Target) -> float:
    """Two reads and a write of each tensor; the kernel is float32."""
    inputs, kernel, output = product.sizes
    moved = (inputs + output) * (2 * BFLOAT16 + FLOAT8)
    moved += kernel * (2 * FLOAT32 + FLOAT8)
    m, k, n = product.m, product.k, product.n
    sides = {(m, k): inputs, (k, n): kernel, (m, n): output}
    padded = sum(size for pair, size in sides.items() if unaligned(*pair))
    moved += 2 * 2 * FLOAT8 * padded  # each operand is in two products
    seconds = moved / (target.bandwidth * 1e12)
    return seconds + EXTRA_KERNELS * target.launch * 1e-6


def unaligned(*sides: int) -> list[int]:
    """Returns the dimensions that a GPU has to pad.

    >>> unaligned(4096, 100, 10)
    [100, 10]
    """
    return [
        side for side in sides if checks.integer("sides", side, 0) % ALIGNMENT
    ]
