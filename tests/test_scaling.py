"""tfmp._core.scaling: every exponent, every kind of float32, in three modes."""

import collections
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, each_mode

from tfmp import formats, ops, recipes
from tfmp._core import scaling

FLOATS = (formats.FLOAT32, formats.BFLOAT16, formats.FLOAT16)
each_float = pytest.mark.parametrize("dtype", [f.dtype for f in FLOATS])
each_float8 = pytest.mark.parametrize(
    "target", formats.FLOAT8, ids=lambda f: f.name
)
each_margin = pytest.mark.parametrize("margin", [0, 1, 16])
LIMIT = 2.0**126

# Batches, so that one call in each mode tests many.
bit_patterns = hnp.arrays(np.uint32, 64, elements=st.integers(0, 2**32 - 1))


def dense_float32(target):
    """Returns all exponents with telling mantissas, of both signs."""
    fraction, _ = math.frexp(target.max)
    top = int((2 * fraction - 1) * 2**23)
    mantissas = [0, 1, top - 1, top, top + 1, 0x2AAAAA, 0x7FFFFE, 0x7FFFFF]
    codes = np.add.outer(np.arange(512) << 23, mantissas)
    return codes.astype(np.uint32).ravel().view(np.float32)


def is_observed(amax):
    """Whether an amax gives a scale: a subnormal is zero to most hardware."""
    return (amax >= formats.FLOAT32.min_normal) & np.isfinite(amax)


def exact_exponent(amax, target, margin):
    """Computes `floor(log2(max / amax)) - margin`; float64 has room for it."""
    usable = is_observed(amax)
    amax = np.where(usable, amax, 1).astype(np.float64)
    top, top_exponent = math.frexp(target.max)
    fraction, exponent = np.frexp(amax)
    power = top_exponent - exponent - (fraction > top) - margin
    return np.where(usable, np.clip(power, -126, 126), 0)


def check_scale(scale, amax, target, margin):
    """Checks what a scale promises, without the formula that finds it."""
    assert scale.dtype == np.float32
    fraction, _ = np.frexp(scale)
    np.testing.assert_array_equal(fraction, 0.5)
    assert np.all((scale >= 1 / LIMIT) & (scale <= LIMIT))
    usable = is_observed(amax)
    np.testing.assert_array_equal(scale[~usable], 1)
    top = np.float64(target.max) * 2.0**-margin
    reached = amax[usable].astype(np.float64) * scale[usable]
    at_low, at_high = scale[usable] == 1 / LIMIT, scale[usable] == LIMIT
    assert np.all((reached <= top) | at_low)
    assert np.all((reached > top / 2) | at_high)


@each_mode
@each_float8
@each_margin
def test_scale_of_every_exponent(run, target, margin):
    amax = dense_float32(target)
    function = run(lambda a: ops.compute_scale(a, target, margin))
    scale = function(tf.constant(amax)).numpy()
    check_scale(scale, amax, target, margin)
    expected = np.ldexp(1.0, exact_exponent(amax, target, margin))
    np.testing.assert_array_equal(scale, expected)


@each_float8
@each_margin
def test_scale_of_any_bit_pattern(target, margin):
    functions = [
        run(lambda a: ops.compute_scale(a, target, margin))
        for run in MODES.values()
    ]

    @hypothesis.given(bit_patterns)
    def check(bits):
        amax = bits.view(np.float32)
        for function in functions:
            scale = function(tf.constant(amax)).numpy()
            check_scale(scale, amax, target, margin)

    check()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_check_scale_can_fail(factor):
    amax = np.float32([1.0, 3.0])
    scale = np.float32([256, 128])
    check_scale(scale, amax, formats.E4M3, 0)
    with pytest.raises(AssertionError):
        check_scale(scale * np.float32(factor), amax, formats.E4M3, 0)
    with pytest.raises(AssertionError):
        check_scale(scale, np.float32([1.0, np.nan]), formats.E4M3, 0)


@each_mode
@each_float8
@each_margin
def test_scale_that_is_no_power_of_two(run, target, margin):
    amax = dense_float32(target)
    function = run(
        lambda a: ops.compute_scale(a, target, margin, power_of_two=False)
    )
    scale = function(tf.constant(amax)).numpy()
    usable = is_observed(amax)
    np.testing.assert_array_equal(scale[~usable], 1)
    wide = amax[usable].astype(np.float64)
    exact = np.clip(target.max * 2.0**-margin / wide, 1 / LIMIT, LIMIT)
    rounding = np.abs(scale[usable] - exact)
    assert np.all(rounding <= formats.FLOAT32.epsilon / 2 * exact)


@each_mode
@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize(
    "amax",
    [0.0, -0.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, 2.0**-127, -1e-45],
)
def test_scale_of_an_unusable_amax(run, power_of_two, amax):
    function = run(
        lambda a: ops.compute_scale(a, "E4M3", 3, power_of_two=power_of_two)
    )
    assert function(tf.constant(amax)).numpy() == 1.0


@each_float8
def test_scale_halves_with_each_step_of_margin(target):
    amax = np.float32([1e-6, 1.0, 1.75, 448.0, 57344.0, 1e6])
    for power_of_two in (True, False):
        scales = [
            ops.compute_scale(amax, target, margin, power_of_two).numpy()
            for margin in range(17)
        ]
        for margin in range(17):
            np.testing.assert_array_equal(
                scales[margin] * 2.0**margin, scales[0]
            )


@each_mode
@each_float
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 1, 3)])
def test_shape_and_dtype_of_a_scale(run, dtype, shape):
    amax = tf.cast(tf.fill(shape, 3.0), dtype)
    function = run(lambda a: ops.compute_scale(a, "E5M2"))
    scale = function(amax)
    assert (scale.dtype, scale.shape) == (tf.float32, shape)
    np.testing.assert_array_equal(scale, np.full(shape, 2.0**14))


@pytest.mark.parametrize("fmt", formats.ALL, ids=lambda f: f.name)
def test_scale_for_every_format(fmt):
    for identifier in (fmt, fmt.name, fmt.dtype, np.dtype(fmt.dtype)):
        scale = ops.compute_scale(fmt.max / 2, identifier)
        assert scale.numpy() == 2.0


@each_float8
def test_scale_for_a_dtype_of_tensorflow(target):
    dtype = tf.as_dtype(target.dtype)
    assert ops.compute_scale(target.max / 2, dtype).numpy() == 2.0


@pytest.mark.parametrize(
    ("changed", "error", "name"),
    [
        ({"amax": 3}, TypeError, "amax"),
        ({"amax": "3"}, TypeError, "amax"),
        ({"dtype": "E9M9"}, ValueError, "dtype"),
        ({"dtype": None}, TypeError, "dtype"),
        ({"margin": -1}, ValueError, "margin"),
        ({"margin": 17}, ValueError, "margin"),
        ({"margin": 0.0}, TypeError, "margin"),
        ({"power_of_two": 1}, TypeError, "power_of_two"),
        ({"power_of_two": None}, TypeError, "power_of_two"),
    ],
)
def test_errors_of_compute_scale(changed, error, name):
    with pytest.raises(error, match=rf"`{name}` must be .*Received: "):
        ops.compute_scale(**{"amax": 3.0, "dtype": "E4M3", **changed})


@each_mode
@each_float8
@each_margin
def test_scale_exponent(run, target, margin):
    amax = dense_float32(target)
    function = run(lambda a: scaling.scale_exponent(a, target, margin))
    exponent = function(tf.constant(amax))
    assert exponent.dtype == tf.int32
    np.testing.assert_array_equal(
        exponent, exact_exponent(amax, target, margin)
    )


@each_mode
def test_exp2(run):
    exponents = np.arange(-126, 128, dtype=np.int32)
    result = run(scaling.exp2)(tf.constant(exponents)).numpy()
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.ldexp(1.0, exponents))


def amax_reference(x):
    x = np.abs(np.asarray(x, np.float32))
    if np.isnan(x).any():
        return np.float32(np.inf)
    return np.max(x, initial=np.float32(0))


@each_mode
@each_float
@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.0],
        [-0.0],
        [-0.0, 0.0],
        [-3.0, 2.0],
        [1.5, -0.0],
        [np.nan],
        [np.nan, 1.0, 2.0],
        [1.0, -np.nan, -np.inf],
        [1.0, np.inf],
        [-np.inf, 1.0],
        [[1.0, -5.0], [4.0, 2.0]],
        -7.0,
    ],
    ids=str,
)
def test_amax(run, dtype, values):
    result = run(ops.amax)(tf.constant(values, dtype)).numpy()
    assert (result.dtype, result.shape) == (np.float32, ())
    assert result == amax_reference(values)
    assert not np.signbit(result)


@each_mode
@each_float
@pytest.mark.parametrize("position", [0, 1, 49_999, 99_998])
def test_amax_of_a_large_tensor(run, dtype, position):
    generator = np.random.default_rng(0)
    x = generator.normal(size=99_999).astype(dtype)
    function = run(ops.amax)
    x[position] = -100
    assert function(tf.constant(x)).numpy() == 100
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        x[position] = value
        assert function(tf.constant(x)).numpy() == np.inf


def check_amax(result, expected):
    """Checks for equality, but subnormals: the CPU takes them for zero."""
    flushed = (result == 0) & (expected < formats.FLOAT32.min_normal)
    np.testing.assert_array_equal(result, np.where(flushed, 0, expected))


@pytest.mark.slow_but("xla", "graph")
@each_mode
@each_float
def test_amax_of_every_value(run, dtype):
    """One row for each float16 or bfloat16; for float32, one in 65,536."""
    codes = np.arange(2**16, dtype=np.uint16)
    if dtype == "float32":
        x = (codes.astype(np.uint32) << 16 | 0x1234).view(np.float32)
    else:
        x = codes.view(dtype)
    function = run(lambda x: tf.vectorized_map(ops.amax, x))
    result = function(tf.constant(x)).numpy()
    check_amax(result, np.array([amax_reference(value) for value in x]))


@hypothesis.given(bit_patterns)
def test_amax_of_any_bit_pattern(bits):
    x = bits.view(np.float32)
    for dtype in ("float32", ml_dtypes.bfloat16, "float16"):
        with np.errstate(over="ignore"):
            each = x.astype(dtype)
        check_amax(ops.amax(tf.constant(each)).numpy(), amax_reference(each))


def test_amax_of_float64_is_float32():
    result = ops.amax(tf.constant([0.1, -0.3], tf.float64))
    assert result.dtype == tf.float32
    assert result.numpy() == np.float32(0.3)


@pytest.mark.parametrize(
    "x", [1, [True], "a", tf.cast([1.0], "float8_e4m3fn")], ids=str
)
def test_amax_is_of_floating_point(x):
    with pytest.raises(TypeError, match=r"`x` must be .*Received: dtype "):
        ops.amax(x)


@each_mode
@each_float8
@pytest.mark.parametrize("role", recipes.ROLES)
def test_assumed_amax(run, target, role):
    index = recipes.ROLES.index(role)
    known = np.full([7, 3], 99, np.float32)
    known[:, index] = [2.0, 0.0, np.inf, np.nan, -1.0, 1e-45, 1e30]
    amax = tf.constant(known)
    prior = scaling.PRIOR_AMAX.get((role, target.name), 0.0)
    assert (prior == 0.0) == (role == "kernel")
    function = run(lambda a: scaling.assumed_amax(a, role, target))
    expected = np.float32([2.0, *[prior] * 5, 1e30])
    np.testing.assert_array_equal(function(amax), expected)
    np.testing.assert_array_equal(function(amax[1]), expected[1])
    function = run(lambda a, o: scaling.assumed_amax(a, role, target, o))
    expected[1:6] = 5.0
    np.testing.assert_array_equal(function(amax, tf.constant(5.0)), expected)
    assert function(amax[1], tf.constant(0.0)).numpy() == 0.0


def test_priors():
    """Each leads to a scale without rounding; a kernel needs none."""
    assert set(scaling.PRIOR_AMAX) == {
        (role, target.name)
        for role in ("inputs", "grads")
        for target in formats.FLOAT8
    }
    for (_, name), prior in scaling.PRIOR_AMAX.items():
        scale = ops.compute_scale(prior, name).numpy()
        assert prior * scale == formats.get(name).max


def test_range_of_the_gradients_prior():
    prior = scaling.PRIOR_AMAX["grads", "E5M2"]
    scale = ops.compute_scale(prior, "E5M2")
    x = tf.constant([6e-8, 5.9e-8, 448.0])
    assert ops.saturation_share(x, scale, "E5M2").numpy() == 0
    q = tf.cast(ops.quantize(x, scale, "E5M2"), tf.float32).numpy()
    np.testing.assert_array_equal(q > 0, [True, False, True])


@each_mode
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_push(run, shape, steps):
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(7, *shape)).astype(np.float32)
    kept = collections.deque(np.zeros((steps, *shape)), maxlen=steps)
    history = tf.zeros([steps, *shape])
    function = run(scaling.push)
    for observed in seen:
        history = function(history, tf.constant(observed))
        kept.appendleft(observed)
        np.testing.assert_array_equal(history, np.array(kept))


@each_mode
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_window_amax(run, shape):
    generator = np.random.default_rng(0)
    history = generator.uniform(0, 9, (5, 4, *shape)).astype(np.float32)
    history[2, 2] = np.inf
    lengths = np.array([0, 1, 3, 5])
    window = np.arange(5)[:, np.newaxis] < lengths
    result = run(scaling.window_amax)(tf.constant(history), tf.constant(window))
    for tensor, length in enumerate(lengths):
        expected = history[:length, tensor].max(axis=0, initial=0)
        np.testing.assert_array_equal(result[tensor], expected)


def test_the_modes_are_three():
    assert MODES["eager"](tf.executing_eagerly)()
    assert not MODES["graph"](tf.executing_eagerly)()
    assert MODES["graph"](tf.strings.as_string)(tf.constant(1)) == b"1"
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        MODES["xla"](tf.strings.as_string)(tf.constant(1))
