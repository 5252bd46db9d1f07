"""Products of tensors of any magnitude that float32 has, against float64."""

import functools
import itertools
import math

import ml_dtypes
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tfmp import ops
from tfmp.recipes import CurrentScaling, DelayedScaling, Emulated

SMALLEST = 2.0**-126  # normal float32; XLA on a CPU takes less for zero
DTYPES = {
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("float16"),
}
# Of the largest value: of each tensor, and None for zeros.
POWERS = [None, -149, -127, *range(-126, 0, 14), 0, *range(14, 127, 14), 127]
FLOAT16_POWERS = [None, -24, -14, -7, 0, 7, 15]
RECIPES = {"current": CurrentScaling(), "delayed": DelayedScaling()}


def tensors(seed, dtypes):
    """Three squares whose largest value is a bit below 2."""
    random = np.random.default_rng(seed)
    whole = random.integers(-127, 128, [3, 8, 8]) / 64
    return [w.astype(DTYPES[name]) for w, name in zip(whole, dtypes)]  # noqa: B905


def times(x, power):
    """Returns `x * 2**power`, without what a CPU takes for zero."""
    if power is None:
        return np.zeros_like(x)
    scaled = np.ldexp(x.astype("float64"), power)
    scaled[np.abs(scaled) < SMALLEST] = 0
    return scaled.astype(x.dtype)


@functools.cache
def compiled(recipe, dtype):
    """Returns a program for a product and its gradients."""

    @tf.function(jit_compile=True, autograph=False)
    def run(x, w, dy, amax):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = ops.matmul(x, w, recipe=RECIPES[recipe], amax=amax)
        return y, *tape.gradient(y, [x, w], output_gradients=dy)

    return run


def check(product, actual):
    """Checks what is in range, and that what is beyond is infinite."""
    actual = np.asarray(actual)
    top = float(ml_dtypes.finfo(actual.dtype).max)
    beyond = np.abs(product.value) > top + product.bound
    near = ~beyond & (np.abs(product.value) > top - product.bound)
    wide = actual.astype("float64")
    assert np.all(wide[beyond] == np.sign(product.value[beyond]) * math.inf)
    settled = np.where(beyond | near, product.value, wide)
    product.check(settled)


def pairs(dtype):
    """Yields the powers of three tensors: all pairs, of each two."""
    powers = FLOAT16_POWERS if dtype == "float16" else POWERS
    for i, j in itertools.product(range(len(powers)), repeat=2):
        yield powers[i], powers[j], powers[(i + j) % len(powers)]


def test_check_can_fail():
    value, bound = np.array([2.0, 2.0**130, -(2.0**130)]), np.ones(3) / 8
    product = oracles.Product(value, np.abs(value), bound)
    right = np.float32([2, math.inf, -math.inf])
    check(product, right)
    for i, wrong in enumerate([0, 3e38, math.inf]):
        changed = right.copy()
        changed[i] = wrong
        with pytest.raises(AssertionError):
            check(product, changed)


@pytest.mark.slow_but("bfloat16")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_any_two_magnitudes_have_the_product_that_float64_has(recipe, dtype):
    """Of the same FP8 values: no scale and no factor leaves its range."""
    run, given = compiled(recipe, dtype), tensors(0, [dtype, "float32", dtype])
    for powers in pairs(dtype):
        x, w, dy = map(times, given, powers)
        amax = [oracles.largest(t) for t in (x, w, dy)]
        expected = oracles.products(
            "ab,bc->ac", x, w, dy, RECIPES[recipe], amax
        )
        results = run(x, w, dy, np.float32(amax))
        for product, actual in zip(expected[:3], results, strict=True):
            check(product, actual)


def test_what_float32_holds_is_as_exact_as_fp8():
    """Against the unquantized product, where it is in range itself."""
    run, given = compiled("current", "float32"), tensors(0, ["float32"] * 3)
    compared = 0
    for powers in pairs("float32"):
        x, w, dy = map(times, given, powers)
        a, b, c = (t.astype("float64") for t in (x, w, dy))
        exact = a @ b, c @ b.T, a.T @ c
        results = run(x, w, dy, np.zeros(3, "float32"))
        for product, actual in zip(exact, results, strict=True):
            size = np.abs(product)
            if size.max() < 2.0**127 and size.max() > 2.0**-115:
                assert oracles.decibels(product, actual) > 20
                compared += 1
    assert compared > 500


def dense(x, w, recipe):
    return ops.einsum("abc,cd->abd", x, w[0, 0], recipe=recipe)


def batched(x, w, recipe):
    return ops.matmul(x[:3], w[0], recipe=recipe)


def pointwise(x, w, recipe):
    return ops.conv(x[tf.newaxis], w[:1, :1], recipe=recipe)


def convolution(x, w, recipe):
    return ops.conv(x[tf.newaxis], w, padding="same", recipe=recipe)


SHIFTS = [(-100, 110, -15), (90, -80, 20), (57, 57, 57)]
# One factor would be too small for these.
TINY = [(-112, 0, -3), (0, -112, -3), (-55, -55, -55)]
# Terms are multiplied in float32 there, and are lost below its range.
EMULATED = [(-90, 0, 0), (0, -90, 0), (-45, -45, -45)]


@pytest.mark.parametrize(
    ("operator", "recipe", "dtype", "shifts"),
    [
        (batched, CurrentScaling(), "bfloat16", SHIFTS + TINY),
        (pointwise, CurrentScaling(), "float32", SHIFTS + TINY),
        (convolution, CurrentScaling(), "bfloat16", SHIFTS + TINY),
        (dense, Emulated("E4M3"), "float32", SHIFTS + EMULATED),
    ],
)
def test_powers_of_two_change_exponents_only(operator, recipe, dtype, shifts):
    """Bit for bit, forward and backward, as far as the exponents go."""
    random = np.random.default_rng(1)
    x = random.standard_normal([4, 4, 32]).astype(DTYPES[dtype])
    w = random.standard_normal([3, 3, 32, 32]).astype("float32")

    @tf.function(jit_compile=True, autograph=False)
    def run(x, w, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = operator(x, w, recipe)
        dy = tf.cast(tf.broadcast_to(dy, tf.shape(y)), y.dtype)
        return y, *tape.gradient(y, [x, w], output_gradients=dy)

    plain = run(x, w, np.float32(1))
    for i, j, k in shifts:
        shifted = run(times(x, i), times(w, j), np.float32(2.0**k))
        powers = i + j, k + j, i + k
        for power, one, other in zip(powers, plain, shifted, strict=True):
            expected = times(np.asarray(one), power)
            np.testing.assert_array_equal(np.asarray(other), expected)
