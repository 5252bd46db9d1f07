"""tfmp.ops.emulate, held against ml_dtypes and against the equations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tfmp import formats
from tfmp._core import bit_rounding
from tfmp.ops import amax, compute_scale, emulate, quantize

SMALL = [f for f in formats.ALL if f.bits <= 16]
each_small = pytest.mark.parametrize("fmt", SMALL, ids=lambda f: f.name)
each_block = pytest.mark.parametrize(
    "block", formats.BLOCKS, ids=lambda f: f.name
)


def bits_of(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32)


def equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where values are the same bit for bit; any NaN is any other."""
    return (bits_of(a) == bits_of(b)) | (np.isnan(a) & np.isnan(b))


def some_float32() -> np.ndarray:
    """Random bits, near values, ties and subnormals, of both signs."""
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 2**32, 20_000, dtype=np.uint64)
    fraction = rng.integers(0, 2**23, 40_000)
    tie = rng.random(40_000) < 0.5
    fraction = np.where(tie, fraction & 0x7C0000, fraction)
    near = rng.integers(90, 160, 40_000) << 23 | fraction
    subnormal = rng.integers(0, 2**23, 10_000)
    special = [0, 0x7F800000, 0x7FC00000, 0x7F800001, 1, 0x7F7FFFFF]
    magnitudes = np.concatenate([near, subnormal, special])
    every = np.concatenate([any_bits, magnitudes, magnitudes | 0x80000000])
    return every.astype(np.uint32).view(np.float32)


def inputs() -> dict[str, np.ndarray]:
    codes = np.arange(2**16, dtype=np.uint16)
    return {
        "bfloat16": codes.view(ml_dtypes.bfloat16),
        "float16": codes.view(np.float16),
        "float32": some_float32(),
    }


INPUTS = inputs()


def by_ml_dtypes(x: np.ndarray, fmt: formats.Format, saturate: bool) -> Any:
    """Returns what ml_dtypes makes of values, but for its two odd habits.

    It makes NaN zero where a format has none, and it rounds E8M0's lowest
    binade, of float32 subnormals, up and not to nearest.
    """
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32)
        top = np.float32(fmt.max) if saturate else np.float32(np.inf)
        clipped = np.where(np.isnan(wide), wide, np.clip(wide, -top, top))
        low = clipped.astype(fmt.dtype).astype(np.float32)
    if not fmt.has_nan:
        low = np.where(np.isnan(wide), wide, low)
    if fmt is formats.E8M0:
        half = 3 * 2.0**-128
        low = np.where((wide > 0) & (wide < half), 2.0**-127, low)
    return low.astype(np.float32)


@pytest.mark.parametrize("dtype", INPUTS)
@each_small
def test_bit_equal_to_ml_dtypes(fmt, dtype):
    x = INPUTS[dtype]
    for saturate in (True, False):
        expected = by_ml_dtypes(x, fmt, saturate)
        found = emulate(tf.constant(x), fmt, saturate=saturate)
        assert found.dtype == tf.float32 and found.shape == x.shape
        assert equal(found.numpy(), expected).all()


@pytest.mark.parametrize(
    "name", ["E4M3", "E2M1", "E5M2FNUZ", "E8M0", "BFLOAT16"]
)
def test_compiled_is_the_same(name):
    """XLA on a CPU flushes subnormal floats; integers it leaves alone."""
    fmt = formats.get_plain(name)

    @tf.function(jit_compile=True, autograph=False)
    def run(*tensors):
        return [emulate(x, fmt, saturate=False) for x in tensors]

    for x, found in zip(INPUTS.values(), run(*INPUTS.values()), strict=True):
        expected = by_ml_dtypes(x, fmt, saturate=False)
        assert equal(found.numpy(), expected).all()


def test_float32_and_float64():
    x = INPUTS["float32"]
    assert equal(emulate(x, "FLOAT32", saturate=False).numpy(), x).all()
    wide = np.float64([0.1, 1e300, -1e-300, np.nan])
    found = emulate(wide, "FLOAT16", saturate=False).numpy()
    with np.errstate(over="ignore"):
        half = wide.astype(np.float32).astype(np.float16)
    expected = half.astype(np.float32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("specials", ["ieee", "fn", "fnuz", "none"])
@pytest.mark.parametrize(
    ("e", "m", "bias"), [(1, 2, None), (3, 0, 2), (5, 3, 9)]
)
def test_formats_of_ones_own(e, m, bias, specials):
    """The nearest of all values, the even one of two as near."""
    fmt = formats.Format("X", "", e, m, specials, bias)
    values = np.array([fmt.decode(code) for code in range(fmt.max_code + 1)])
    steps = np.linspace(0, fmt.max * 1.2, 3001)
    x = np.concatenate([steps, values, (values[1:] + values[:-1]) / 2])
    x = np.float64(np.float32(x))
    distance = abs(x[:, None] - values)
    nearest = distance.argmin(axis=1)
    tie = (
        distance.min(axis=1)
        == distance[range(len(x)), (nearest + 1) % len(values)]
    )
    up = nearest % 2 == 1 if m else values[nearest] > 0
    expected = values[nearest + (tie & up)]
    found = emulate(np.float32(np.concatenate([x, -x])), fmt).numpy()
    np.testing.assert_array_equal(found, np.concatenate([expected, -expected]))


def test_unsigned_formats():
    fmt = formats.Format("UE4M3", "", 4, 3, "fn", signed=False)
    found = emulate([0.0, -0.0, 1.1, -1.0, np.inf], fmt).numpy()
    np.testing.assert_array_equal(found, [0, 0, 1.125, np.nan, 448])
    assert not np.signbit(found[1])


@each_small
def test_toward_zero(fmt):
    x = np.abs(INPUTS["float32"])
    x = x[(x >= fmt.min_subnormal) & np.isfinite(x)]
    low = emulate(x, fmt, rounding="toward_zero", saturate=False).numpy()
    assert (low <= x).all() and low.max() == np.float32(fmt.max)
    assert equal(emulate(low, fmt).numpy(), low).all()
    inside = x < fmt.max
    code = {fmt.decode(c): c for c in range(fmt.max_code + 1)}
    above = [fmt.decode(code[float(v)] + 1) for v in low[inside][:500]]
    assert (x[inside][:500] < above).all()
    if fmt.signed:
        assert equal(emulate(-x, fmt, rounding="toward_zero"), -low).all()


STOCHASTIC = [
    ("E4M3", 1.03),
    ("E4M3", -300.1),
    ("E5M2", 2.0**-17),  # between zero and the smallest value
    ("E5M2", 1.1 * 2.0**-20),
    ("E2M1", 5.2),
    ("E8M0", 1.3),
    ("BFLOAT16", 1.00001),
    ("BFLOAT16", 2.0**-135),
]


@pytest.mark.parametrize(("fmt", "value"), STOCHASTIC)
def test_stochastic_rounding_is_unbiased(fmt, value):
    count = 2**16
    x = np.full([count], value, np.float32)
    found = emulate(x, fmt, rounding="stochastic", seed=7).numpy()
    low, high = np.unique(found)
    share = (float(x[0]) - float(low)) / (float(high) - float(low))
    up = np.mean(found == high)
    assert abs(up - share) < 3 * math.sqrt(share * (1 - share) / count)
    target = formats.get(fmt)
    assert equal(emulate([low, high], target).numpy(), [low, high]).all()


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (1.0 + 2.0**-4, 1.0, 1.25),
        (2.0**-17, 0.0, 2.0**-16),
        (2.0**-24, 0.0, 2.0**-16),
        (1.5 * 2.0**-30, 0.0, 2.0**-16),
    ],
)
def test_the_random_number_decides(value, low, high):
    """Up for those above one less the share, of all 2**30 numbers."""
    share = (value - low) / (high - low)
    first = 2**30 - round(share * 2**30)
    random = tf.constant([0, first - 1, first, 2**30 - 1])
    bits = tf.fill([4], tf.bitcast(value, tf.int32))
    found = bit_rounding.round_bits(
        bits, formats.E5M2, "stochastic", random=random
    )
    found = tf.bitcast(found, tf.float32).numpy().tolist()
    assert found == [low, low, high, high]


def test_stochastic_rounding_leaves_values_of_the_format():
    values = np.float32([formats.E4M3.decode(c) for c in range(127)])
    many = np.tile(values, 100)
    assert (
        (emulate(many, "E4M3", rounding="stochastic", seed=0) == many)
        .numpy()
        .all()
    )
    big = emulate([1e9, np.inf], "E4M3", rounding="stochastic", seed=0)
    assert big.numpy().tolist() == [448, 448]


def test_seeds():
    x = tf.random.stateless_normal([64, 64], [0, 1])

    def run(seed, function=emulate):
        return function(x, "E4M3", rounding="stochastic", seed=seed).numpy()

    jit = tf.function(emulate, jit_compile=True, autograph=False)
    assert (run(3) == run(3)).all() and (run(3) == run(3, jit)).all()
    assert (run(3) == run(tf.constant([0, 3]))).all()
    assert (run(3) != run(4)).mean() > 0.2
    with pytest.raises(ValueError, match="`seed`"):
        emulate(x, "E4M3", rounding="stochastic")
    with pytest.raises(ValueError, match="`seed`"):
        emulate(x, "E4M3", seed=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_scale(dtype):
    x = tf.cast(tf.random.stateless_normal([32, 8], [0, 1]), dtype)
    for fmt in formats.FLOAT8:
        scale = compute_scale(amax(x), fmt)
        real = tf.cast(quantize(x, scale, fmt), tf.float32) / scale
        assert (emulate(x, fmt, scale=scale) == real).numpy().all()
    each = emulate(x, "E2M1", scale=tf.fill([32, 1], 4.0))
    assert (
        (each == emulate(tf.cast(x, tf.float32) * 4, "E2M1") / 4).numpy().all()
    )


def mx_reference(x: np.ndarray, block: formats.BlockFormat) -> np.ndarray:
    """One block by the equations, in float64."""
    top = np.abs(x).max()
    fmt = block.element
    if not top:
        return np.zeros_like(x)
    half = 2.0 ** (math.floor(math.log2(top)) - fmt.mantissa_bits - 1)
    power = {
        "floor": math.floor(math.log2(top)) - fmt.max_exponent,
        "ceil": math.ceil(math.log2(top)) - fmt.max_exponent,
        "rceil": math.ceil(math.log2(top / fmt.max)),
        "even": math.floor(math.log2(top + half)) - fmt.max_exponent,
    }[block.scale_rounding]
    return by_ml_dtypes(np.float32(x * 2.0**-power), fmt, True) * 2.0**power


@pytest.mark.parametrize("rounding", ["floor", "ceil", "rceil", "even"])
@pytest.mark.parametrize("block", formats.BLOCKS[:-1], ids=lambda f: f.name)
def test_mx(block, rounding):
    block = dataclasses.replace(block, name="X", scale_rounding=rounding)
    rng = np.random.default_rng(1)
    x = rng.normal(size=[6, 80]) * 2.0 ** rng.integers(-20, 20, [6, 80])
    x[0, :32], x[1, 5], x[2, :64] = 0, 2.0**7, 2.0**-3
    x = np.float32(x)
    found = emulate(x, block).numpy()
    for start in (0, 32, 64):
        for row, low in zip(x, found, strict=True):
            part = slice(start, min(start + 32, 80))
            expected = mx_reference(np.float64(row[part]), block)
            np.testing.assert_array_equal(low[part], expected)
    beyond = np.abs(found) < np.abs(x) * 0.8
    saturates = beyond & (np.abs(x) >= 0.9 * np.abs(x).max(1, keepdims=True))
    assert rounding in ("floor", "even") or not saturates.any()


def test_rounding_of_scales_as_told():
    """What torchao's rules give for an amax of 100, and for others."""
    x, found = [100.0, 1.0], {}
    for rounding in ("floor", "ceil", "rceil"):
        block = dataclasses.replace(
            formats.MXFP4, name="X", scale_rounding=rounding
        )
        found[rounding] = emulate(x, block).numpy().tolist()
    # scales 16, 32 and 32: 6.25 saturates, 3.125 does not
    assert found == {"floor": [96, 0], "ceil": [96, 0], "rceil": [96, 0]}
    up = dataclasses.replace(formats.MXFP4, name="X", scale_rounding="ceil")
    assert emulate([90.0], up).numpy().tolist() == [96]
    assert emulate([65.0], up).numpy().tolist() == [64]
    even = dataclasses.replace(formats.MXFP4, name="X", scale_rounding="even")
    # Up from 1.75 on, where E2M1 has no value below the next power of two.
    assert emulate([111.0, 9.0], even).numpy().tolist() == [96, 8]
    assert emulate([112.0, 9.0], even).numpy().tolist() == [128, 16]


def test_nvfp4():
    """By the operations of Transformer Engine's NVFP4QuantizerRef, bit for bit.

    Blocks of small values have scales that are subnormal, or zero.
    """
    x = np.float32(np.random.default_rng(2).normal(size=[8, 40]) * 3)
    x[3, 16:32] = 0
    x[4, :16] *= 2.0**-14
    x[5, :16] *= 2.0**-20
    found = emulate(x, "NVFP4").numpy()
    whole = np.float32(448 * 6) / np.abs(x).max()
    for start in (0, 16, 32):
        part = x[:, start : start + 16]
        top = np.abs(part).max(axis=1, keepdims=True)
        sixth = np.float32(1) / np.float32(6)
        scale = by_ml_dtypes(top * (whole * sixth), formats.E4M3, True)
        decode = scale * (np.float32(1) / whole)
        with np.errstate(divide="ignore", invalid="ignore"):
            encode = np.minimum(1 / decode, np.finfo(np.float32).max)
        low = by_ml_dtypes(part * encode, formats.E2M1, True) * decode
        np.testing.assert_array_equal(found[:, start : start + 16], low)
    assert not found[3, 16:32].any() and not found[5, :16].any()
    assert found[4, :16].any()
    tiny = emulate(x * np.float32(2.0**-118), "NVFP4").numpy() * 2.0**118
    for low in (found, tiny):
        noise = np.square(low - x).sum() / np.square(x).sum()
        assert -10 * math.log10(noise) > 19


@each_block
def test_axes_of_blocks(block):
    x = tf.random.stateless_normal([3, 5, 70], [0, 1])
    last = emulate(x, block)
    moved = emulate(tf.transpose(x, [2, 0, 1]), block, axis=0)
    assert (tf.transpose(moved, [1, 2, 0]) == last).numpy().all()
    flat = emulate(tf.reshape(x, [3, 350]), block)
    both = emulate(x, block, axis=(1, 2))
    assert (tf.reshape(both, [3, 350]) == flat).numpy().all()
    swapped = emulate(tf.transpose(x, [0, 2, 1]), block, axis=(2, -2))
    assert (tf.transpose(swapped, [0, 2, 1]) == both).numpy().all()
    alone = emulate(x, block, axis=())
    ones = emulate(x[..., tf.newaxis], block)
    assert (alone == ones[..., 0]).numpy().all()


@each_block
def test_what_is_not_finite_in_blocks(block):
    x = np.ones([4, 64], np.float32)
    x[0, 3], x[1, 40], x[2] = np.nan, -np.inf, 0
    found = emulate(x, block).numpy()
    lost = np.zeros([4, 64], bool)
    lost[0, : block.block_size] = True
    first = 40 // block.block_size * block.block_size
    lost[1, first : first + block.block_size] = True
    np.testing.assert_array_equal(np.isnan(found), lost)
    np.testing.assert_allclose(found[~lost], x[~lost], rtol=1e-6)
    assert not emulate(np.zeros([0, 8], np.float32), block).shape[0]


def test_blocks_of_unknown_length_compiled():
    spec = tf.TensorSpec([None, None, 3])

    @tf.function(jit_compile=True, input_signature=[spec])
    def run(x):
        y = emulate(x, "NVFP4", axis=1)
        assert y.shape.as_list() == [None, None, 3]
        return y

    for n in (5, 33):
        x = tf.random.stateless_normal([2, n, 3], [0, n])
        assert np.allclose(run(x), emulate(x, "NVFP4", axis=1), rtol=1e-6)


def test_stochastic_blocks():
    x = tf.random.stateless_normal([512, 64], [0, 1])
    mean = (
        sum(
            emulate(x, "MXFP8_E5M2", rounding="stochastic", seed=seed)
            for seed in range(32)
        )
        / 32
    )
    near = emulate(x, "MXFP8_E5M2")
    assert np.std(mean - x) < 0.5 * np.std(near - x)
    assert abs(np.mean(mean - x)) < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", ["E2M1", "NVFP4"])
def test_the_gradient_goes_straight_through(name, dtype):
    x = tf.cast(tf.random.stateless_normal([4, 20], [0, 1]), dtype)
    weights = tf.reshape(tf.range(80.0), [4, 20])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(emulate(x, name) * weights)
    gradient = tape.gradient(loss, x)
    assert gradient.dtype == x.dtype
    np.testing.assert_array_equal(gradient, tf.cast(weights, dtype))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"x": [1, 2]}, TypeError, "`x`"),
        ({"format": "E9M9"}, ValueError, "`format`"),
        ({"format": 3}, TypeError, "`format`"),
        ({"format": formats.Format("X", "", 9, 3)}, ValueError, "can hold"),
        ({"rounding": "up"}, ValueError, "`rounding`"),
        ({"saturate": 1}, TypeError, "`saturate`"),
        ({"axis": 1}, ValueError, "`axis`"),
        ({"axis": 0.0}, TypeError, "`axis`"),
        ({"axis": (0, -1)}, ValueError, "`axis`"),
        ({"scale": [1.0, 2.0, 3.0]}, ValueError, "`scale`"),
        ({"scale": 1.0, "format": "MXFP4"}, ValueError, "`scale`"),
        ({"rounding": "stochastic", "seed": -1}, ValueError, "`seed`"),
        ({"rounding": "stochastic", "seed": 1.0}, TypeError, "`seed`"),
        ({"rounding": "stochastic", "seed": [1, 2, 3]}, TypeError, "`seed`"),
    ],
)
def test_errors(arguments, error, said):
    with pytest.raises(error, match=said) as caught:
        emulate(**{"x": [1.0, 2.0], "format": "E4M3", **arguments})
    assert "Received: " in str(caught.value)


def test_subnormals_and_scales():
    """As the docstring says: rounding sees them, arithmetic does not."""
    x = np.float32([2.0**-130, 2.0**-140])
    assert (emulate(x, "FLOAT32").numpy() == x).all()
    assert not emulate(x, "FLOAT32", scale=1.0).numpy().any()
    assert (
        not emulate(np.full([32], 2.0**-130, np.float32), "MXFP4").numpy().any()
    )


def test_the_comparison_can_fail():
    x = INPUTS["float32"]
    expected = by_ml_dtypes(x, formats.E4M3, False)
    assert not equal(emulate(x, "E5M2", saturate=False), expected).all()
    assert not equal(np.float32([0.0]), np.float32([-0.0])).any()
    bits = tf.constant(bits_of(np.float32([1.0625])).view(np.int32))
    cut = bit_rounding.round_bits(bits, formats.E4M3, "toward_zero")
    assert tf.bitcast(cut, tf.float32).numpy() == [1.0]
