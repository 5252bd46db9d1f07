"""What a product on FP8 operands must give, by NumPy and ml_dtypes alone.

No line here runs tfmp: a recipe is read as data.  Two oracles for

    y = x . w,    dx = dy . w,    dw = x . dy

the tight one multiplies the same FP8 values in float64, and allows what
accumulating in float32 and rounding once to the compute dtype may cost; the
loose one is the signal-to-noise ratio against the unquantized product.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import tensorflow as tf

FORMATS = {
    "E4M3": (ml_dtypes.float8_e4m3fn, 448.0),
    "E5M2": (ml_dtypes.float8_e5m2, 57344.0),
}
ROLES = ("inputs", "kernel", "grads")
FLOAT32_ROUNDOFF = 2.0**-24
# Rounding the accumulator to the result; float32 is the accumulator itself.
ROUNDOFF = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# XLA on a CPU flushes float32's subnormals, and with them bfloat16's.
UNDERFLOW = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-25}


class Product(NamedTuple):
    """A product in float64, and how far from it a result may be.

    `magnitude` is the sum of the terms' absolute values.
    """

    value: np.ndarray
    magnitude: np.ndarray
    bound: np.ndarray

    def check(self, actual: Any) -> None:
        """Raises `AssertionError` unless all of `actual` is within bounds."""
        actual = np.asarray(actual)
        assert actual.shape == self.value.shape
        error = np.abs(actual.astype("float64") - self.value)
        # Written so that a NaN fails.
        outside = ~(error <= self.bound)
        assert not outside.any(), (
            f"{outside.sum()} of {outside.size} outside: received "
            f"{actual[outside][:3]}, not {self.value[outside][:3]} within "
            f"{self.bound[outside][:3]}"
        )


class Products(NamedTuple):
    """The three products, and the amax that each role observes."""

    output: Product
    input_grad: Product
    kernel_grad: Product
    amax: list[float]

    def check(self, output: Any, d_inputs: Any, d_kernel: Any) -> None:
        """Checks the result and both gradients."""
        self.output.check(output)
        self.input_grad.check(d_inputs)
        self.kernel_grad.check(d_kernel)


def largest(x: np.ndarray) -> float:
    return float(np.abs(x.astype("float64")).max(initial=0.0))


def scale_for(amax: float, name: str, margin: int = 0) -> float:
    """Returns `2**(floor(log2(max / amax)) - margin)`, 1 for an unusable amax.

    The quotient of two float32 is not a power of two in float64 unless it is
    one exactly: 53 bits tell them apart.
    """
    if not 0 < amax < math.inf:
        return 1.0
    floor_of_log2 = math.frexp(FORMATS[name][1] / amax)[1] - 1
    return 2.0 ** max(-126, min(126, floor_of_log2 - margin))


def quantize(x: np.ndarray, name: str, scale: float) -> np.ndarray:
    """Returns what the FP8 copy of `x` stands for, as float64."""
    dtype, top = FORMATS[name]
    scaled = np.clip(x.astype("float32") * np.float32(scale), -top, top)
    return scaled.astype(dtype).astype("float64") / scale


def multiply(
    equation: str, lhs: np.ndarray, rhs: np.ndarray, dtype: str
) -> Product:
    """Contracts in float64; letters only.

    The sum of n products, each rounded, errs by at most `g * sum(abs(...))`
    with `g = n * u / (1 - n * u)`, in any order (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1).
    """
    terms, _, out = equation.partition("->")
    lengths = dict(zip(terms.replace(",", ""), lhs.shape + rhs.shape))  # noqa: B905 - repeats
    count = math.prod(n for label, n in lengths.items() if label not in out)
    value = np.einsum(equation, lhs, rhs)
    magnitude = np.einsum(equation, np.abs(lhs), np.abs(rhs))
    return bounded(value, magnitude, count, dtype)


def bounded(
    value: np.ndarray, magnitude: np.ndarray, count: int, dtype: str
) -> Product:
    """Returns a product of `count` terms a value, rounded to a dtype."""
    n_u = count * FLOAT32_ROUNDOFF
    summed = n_u / (1 - n_u) * magnitude
    rounded = ROUNDOFF[dtype] * (np.abs(value) + summed)
    return Product(value, magnitude, summed + rounded + UNDERFLOW[dtype])


def operands(
    tensors: dict[str, np.ndarray], recipe: Any, amax: Any = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns, by role, what FP8 copies stand for, and the compute dtype's."""
    dtype = tensors["inputs"].dtype
    assumed = {role: largest(x) for role, x in tensors.items()}
    if amax is not None:
        given = dict(zip(ROLES, amax, strict=True))
        assumed |= {r: v for r, v in given.items() if r not in recipe.current}
    low, high = {}, {}
    for role, x in tensors.items():
        name = getattr(recipe, role)
        scale = scale_for(assumed[role], name, recipe.margin)
        scale = constants(recipe).get(role, scale)
        low[role] = quantize(x, name, scale)
        high[role] = x.astype(dtype).astype("float64")
    return low, high


def constants(recipe: Any) -> dict[str, float]:
    """Returns the scale of each role, empty unless they are constants."""
    given = getattr(recipe, "scale", None)
    if given is None:
        return {}
    three = given if isinstance(given, tuple) else [given] * 3
    return {r: s / 2**recipe.margin for r, s in zip(ROLES, three, strict=True)}


def products(
    equation: str,
    inputs: np.ndarray,
    kernel: np.ndarray,
    grads: np.ndarray,
    recipe: Any,
    amax: Any = None,
) -> Products:
    """Returns what a contraction and its gradients must give.

    Args:
        equation: letters only, with an arrow.
        inputs: array of the compute dtype.
        kernel: array of float32 or a 16-bit dtype.
        grads: gradient of the result, of the compute dtype.
        recipe: has `margin`, `current`, `high_precision` and, by role, the
            names of the formats.
        amax: for delayed scaling, three numbers; None for current scaling.
    """
    dtype = inputs.dtype.name
    tensors = dict(zip(ROLES, (inputs, kernel, grads), strict=True))
    low, high = operands(tensors, recipe, amax)

    terms, _, out = equation.partition("->")
    lhs, _, rhs = terms.partition(",")
    three = {
        "output": (f"{lhs},{rhs}->{out}", "inputs", "kernel"),
        "input_grad": (f"{out},{rhs}->{lhs}", "grads", "kernel"),
        "kernel_grad": (f"{lhs},{out}->{rhs}", "inputs", "grads"),
    }
    results, used = [], set()
    for name, (labels, first, second) in three.items():
        wide = name in recipe.high_precision
        values = high if wide else low
        used |= set() if wide else {first, second}
        results.append(multiply(labels, values[first], values[second], dtype))
    used = set() if constants(recipe) else used
    observed = [largest(x) if r in used else 0.0 for r, x in tensors.items()]
    return Products(*results, observed)


def decibels(reference: np.ndarray, actual: Any) -> float:
    """Returns the signal-to-noise ratio of `actual`."""
    actual = np.asarray(actual).astype("float64")
    noise = np.sum((reference - actual) ** 2)
    return 10 * math.log10(np.sum(reference**2) / noise)


def gradients(function: Any, tensors: Any, upstream: Any = 1.0) -> tuple:
    """Returns what a function gives, and the gradient of each argument.

    Args:
        function: of the tensors, to a tensor.
        tensors: its arguments.
        upstream: gradient of its result, which it is broadcast to.
    """
    tensors = [tf.convert_to_tensor(t) for t in tensors]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = function(*tensors)
    upstream = tf.cast(upstream, result.dtype)
    upstream = tf.broadcast_to(upstream, tf.shape(result))
    return result, *tape.gradient(result, tensors, output_gradients=upstream)


def same_bits(first: Any, second: Any) -> bool:
    """Whether two structures hold tensors that are equal bit for bit."""
    pairs = zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True)
    arrays = [[np.asarray(t) for t in pair] for pair in pairs]
    return all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in arrays
    )
