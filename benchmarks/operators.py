"""Times the FP8 operators of tfmp against Keras' float8, bfloat16 and float32.

    python benchmarks/operators.py [--rounds 20] [--out operators.json]

Tensors: `tfmp.ops.quantize` with a given scale, with the scale of the tensor
itself (its amax), `dequantize`, and both; Keras' `quantize_and_dequantize`,
which is always both; and one pass over the tensor that does nothing but
multiply, which is the least that any of them can cost.

Products: dense layers (rows x inputs x outputs), attention scores (heads x
tokens x size) and convolutions.  `output`, `input_grad` and `kernel_grad` are
timed alone, each with the quantization of its two operands; `all` is what a
training step does: the three of them, every tensor quantized once, and the
observed amax.  Keras' float8 is written as Keras' `Dense` writes it, around
the same product in bfloat16: for other layers than `Dense` and `EinsumDense`
Keras itself has none.  Attention scores are of two activations, which tfmp
always scales by their own amax.

Every program is compiled by XLA.  Calls shorter than a few milliseconds are
repeated; `empty_call_milliseconds` is what is left of one without work.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measuring
import tensorflow as tf
from keras import quantizers

from tfmp import ops

BLOCK_SECONDS = 0.005
E4M3, E5M2 = ("float8_e4m3fn", 448.0), ("float8_e5m2", 57344.0)
VARIANTS = (
    "tfmp delayed",
    "tfmp current",
    "Keras float8",
    "bfloat16",
    "float32",
)
# What is asked of the tape: inputs, kernel, or these and all state.
WANTED = {
    "output": slice(0),
    "input_grad": slice(1),
    "kernel_grad": slice(1, 2),
    "all": slice(None),
}


class Case(NamedTuple):
    """A product in two ways.

    Attributes:
        inputs: shape of the first operand.
        kernel: shape of the second.
        wide: multiplies in the dtype of its operands.
        low: the operator of tfmp.
        has_weights: whether the second operand is a float32 variable.
    """

    inputs: tuple[int, ...]
    kernel: tuple[int, ...]
    wide: Callable[[Any, Any], tf.Tensor]
    low: Callable[..., tf.Tensor]
    has_weights: bool = True


def dense(rows: int, inputs: int, outputs: int) -> Case:
    return Case((rows, inputs), (inputs, outputs), tf.matmul, ops.matmul)


def scores(heads: int, tokens: int, size: int) -> Case:
    wide, low = (
        functools.partial(einsum, "hqd,hkd->hqk")
        for einsum in (tf.einsum, ops.einsum)
    )
    return Case((heads, tokens, size), (heads, tokens, size), wide, low, False)


def convolution(
    batch: int, side: int, size: int, channels: int, filters: int
) -> Case:
    return Case(
        (batch, side, side, channels),
        (size, size, channels, filters),
        functools.partial(tf.nn.convolution, padding="SAME"),
        functools.partial(ops.conv, padding="same"),
    )


PASSES = ("Keras both", "bfloat16 pass", "float32 pass")
TENSORS = ((64, 64), (256, 256), (512, 1024), (2048, 2048))
CASES = {
    "dense 64 x 64 x 64": dense(64, 64, 64),
    "dense 256 x 256 x 256": dense(256, 256, 256),
    "dense 512 x 1024 x 1024": dense(512, 1024, 1024),
    "dense 512 x 1024 x 4096": dense(512, 1024, 4096),
    "dense 2048 x 2048 x 2048": dense(2048, 2048, 2048),
    "scores 24 x 256 x 64": scores(24, 256, 64),
    "conv 3x3 8 x 14 x 14, 64-64": convolution(8, 14, 3, 64, 64),
    "conv 3x3 8 x 28 x 28, 128-128": convolution(8, 28, 3, 128, 128),
    "conv 1x1 8 x 28 x 28, 128-512": convolution(8, 28, 1, 128, 512),
}


def tensor_calls(shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """Returns the operators on one tensor, by name."""
    wide, scale = tf.random.normal(shape), tf.constant(64.0)
    x = tf.cast(wide, tf.bfloat16)
    q = ops.quantize(x, scale, "E4M3")
    functions = {
        "tfmp quantize": (lambda x: ops.quantize(x, scale, "E4M3"), x),
        "tfmp amax, quantize": (own_scale, x),
        "tfmp dequantize": (lambda q: ops.dequantize(q, scale, "bfloat16"), q),
        "tfmp both": (
            lambda x: ops.dequantize(
                ops.quantize(x, scale, "E4M3"), scale, "bfloat16"
            ),
            x,
        ),
        "Keras both": (lambda x: keras_both(x, 1 / scale), x),
        "Keras amax, both": (keras_own_scale, x),
        "bfloat16 pass": (lambda x: x * tf.cast(scale, x.dtype), x),
        "float32 pass": (lambda x: x * scale, wide),
    }
    return {
        name: functools.partial(compiled(function), argument)
        for name, (function, argument) in functions.items()
    }


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(function, jit_compile=True, autograph=False)


def own_scale(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Current scaling."""
    scale = ops.compute_scale(ops.amax(x), "E4M3")
    return ops.quantize(x, scale, "E4M3"), scale


def keras_both(x: tf.Tensor, scale: Any, dtype: str = E4M3[0]) -> tf.Tensor:
    return quantizers.quantize_and_dequantize(x, scale, dtype, "bfloat16")


def keras_own_scale(x: tf.Tensor) -> tf.Tensor:
    amax = tf.cast(tf.reduce_max(tf.abs(x)), tf.float32)
    return keras_both(x, keras_scale(amax, tf.constant(1.0), E4M3))


def keras_scale(amax: Any, scale: Any, target: tuple[str, float]) -> tf.Tensor:
    return quantizers.compute_float8_scale(amax, scale, target[1])


def renewed(x: Any, scale: Any, history: Any, target: Any) -> tuple[Any, Any]:
    """Returns the next scale and history of a tensor, as Keras has them."""
    scale = keras_scale(tf.reduce_max(history), scale, target)
    return scale, quantizers.compute_float8_amax_history(x, history)


@tf.custom_gradient
def keras_operand(x: tf.Tensor, scale: tf.Tensor, history: tf.Tensor) -> Any:
    def grad(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return upstream, *renewed(x, scale, history, E4M3)

    return keras_both(x, scale), grad


@tf.custom_gradient
def keras_result(y: tf.Tensor, scale: tf.Tensor, history: tf.Tensor) -> Any:
    def grad(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        low = keras_both(upstream, scale, E5M2[0])
        return low, *renewed(upstream, scale, history, E5M2)

    return tf.identity(y), grad


def multiply(case: Case, variant: str, x: Any, w: Any, state: Any) -> tf.Tensor:
    """Returns the product of a variant.

    Args:
        case: what is multiplied.
        variant: how.
        x: the inputs, of the compute dtype.
        w: the kernel.
        state: `[amax]`, or Keras' scales and histories, or nothing.
    """
    if variant == "tfmp delayed":
        return case.low(x, w, amax=state[0])
    if variant == "tfmp current":
        return case.low(x, w, recipe="current")
    w = tf.cast(w, x.dtype)
    if variant != "Keras float8":
        return case.wide(x, w)
    scales, histories = state[:3], state[3:]
    x = keras_operand(x, scales[0], histories[0])
    w = keras_operand(w, scales[1], histories[1])
    return keras_result(case.wide(x, w), scales[2], histories[2])


def product_calls(case: Case, product: str) -> dict[str, Callable[[], Any]]:
    """Returns one of the three products, or all, by variant."""
    calls = {}
    for variant in VARIANTS:
        if variant == "tfmp delayed" and not case.has_weights:
            continue
        wide = tf.float32 if variant == "float32" else tf.bfloat16
        x = tf.cast(tf.random.normal(case.inputs), wide)
        w = tf.random.normal(case.kernel, stddev=0.02)
        w = w if case.has_weights else tf.cast(w, wide)
        state = {
            "tfmp delayed": [tf.constant([8.0, 0.1, 8.0])],
            "Keras float8": [tf.ones([])] * 3 + [tf.zeros([1024])] * 3,
        }.get(variant, [])
        dy = tf.random.normal(case.wide(x, tf.cast(w, wide)).shape)
        run = program(case, variant, product)
        calls[variant] = functools.partial(run, tf.cast(dy, wide), x, w, *state)
    return calls


def program(case: Case, variant: str, product: str) -> Callable[..., Any]:
    """Returns a function of (upstream, inputs, kernel, *state)."""

    def run(upstream: tf.Tensor, *tensors: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = multiply(case, variant, *tensors[:2], tensors[2:])
        if product == "output":
            return y
        found = tape.gradient(y, tensors[WANTED[product]], upstream)
        return [y, *found] if product == "all" else found

    return compiled(run)


def measure(
    rounds: int, tensors: Any = TENSORS, cases: Any = CASES
) -> dict[str, Any]:
    """Returns a summary of each tensor, and of each product of each case."""
    times = functools.partial(
        measuring.interleaved, rounds=rounds, block_seconds=BLOCK_SECONDS
    )
    empty = functools.partial(compiled(lambda x: x + 1), tf.constant(1.0))
    passes, products = {}, {}
    for shape in tensors:
        name = " x ".join(map(str, shape))
        passes[name] = measuring.summary(times(tensor_calls(shape)), PASSES)
    for name, case in cases.items():
        for product in WANTED:
            products[f"{name}: {product}"] = measuring.summary(
                times(product_calls(case, product)), VARIANTS[2:]
            )
    [call] = times({"": empty}).values()
    return {
        "empty_call_milliseconds": measuring.spread(call),
        "tensors": passes,
        "products": products,
    }


def main() -> None:
    """Prints two tables, and writes JSON if asked to."""
    parser = measuring.parser(__doc__, rounds=20)
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=CASES, help="default: all"
    )
    args = parser.parse_args()
    cases = {name: CASES[name] for name in args.cases}
    tf.get_logger().setLevel("ERROR")  # it thinks that one is traced often
    found = measure(args.rounds, cases=cases)
    names = list(next(iter(found["tensors"].values())))
    print(measuring.table(found["tensors"], names, ["tfmp both"], PASSES))
    rest = VARIANTS[:2], VARIANTS[2:]
    print("\n" + measuring.table(found["products"], VARIANTS, *rest))
    measuring.write(args.out, {"rounds": args.rounds, **found})


if __name__ == "__main__":
    main()
