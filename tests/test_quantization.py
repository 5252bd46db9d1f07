"""tfmp._core.quantization: every code and every 16-bit input, bit for bit."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES, each_mode

from tfmp import formats, ops
from tfmp._core import quantization

each_float8 = pytest.mark.parametrize(
    "target", formats.FLOAT8, ids=lambda f: f.name
)
FLOATS = ("float32", "bfloat16", "float16")
each_float = pytest.mark.parametrize("dtype", FLOATS)
# Half of all combinations, in which every pair of values occurs.
LATIN = [
    pytest.param(MODES[mode], target, dtype, id=f"{dtype}-{target.name}-{mode}")
    for i, mode in enumerate(MODES)
    for j, dtype in enumerate(FLOATS)
    for target in [formats.FLOAT8[(i + j) % 2]]
]
each_pair = pytest.mark.parametrize(("run", "target", "dtype"), LATIN)
# Beyond 2**100 a subnormal bfloat16 could matter, which the CPU takes for 0.
SCALES = (1.0, 2.0**-7, 2.0**9, 2.0**100, 2.0**-126, 3.0, 0.1, 1 / 3, 1234.5)


def reference(x, scale, target):
    """Quantizes with NumPy and ml_dtypes alone."""
    limit = float(ml_dtypes.finfo(target.dtype).max)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = x.astype(np.float32) * np.float32(scale)
        return np.clip(scaled, -limit, limit).astype(target.dtype)


def bits(x):
    """Returns the codes of a float array, with all NaNs alike."""
    x = np.asarray(x)
    codes = x.view(f"uint{8 * x.dtype.itemsize}")
    all_ones = np.iinfo(codes.dtype).max
    return np.where(np.isnan(x.astype(np.float32)), all_ones, codes)


def assert_bit_equal(x, y):
    x, y = np.asarray(x), np.asarray(y)
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(bits(x), bits(y))


def every_input(dtype):
    """Returns all values of 16 bits, or of float32 all upper halves."""
    codes = np.arange(2**16, dtype=np.uint16)
    if dtype == "float32":
        return (codes.astype(np.uint32) << 16).view(np.float32)
    return codes.view(dtype)


def codes_of(target):
    return np.arange(256, dtype=np.uint8).view(target.dtype)


def finite_values(target):
    """Returns the format's non-negative values in ascending order."""
    values = codes_of(target)[:128].astype(np.float64)
    return values[np.isfinite(values)]


def test_bit_equality_can_fail():
    plus, minus = np.float32([0.0]), np.float32([-0.0])
    assert_bit_equal(plus, plus)
    assert_bit_equal(np.float32([np.nan]), -np.float32([np.nan]))
    for other in (minus, np.float32([1e-45]), np.float32([np.nan])):
        with pytest.raises(AssertionError):
            assert_bit_equal(plus, other)
    with pytest.raises(AssertionError):
        assert_bit_equal(plus, np.float64([0.0]))


@each_pair
def test_quantize_every_input(run, target, dtype):
    x = every_input(dtype)
    function = run(lambda x, s: ops.quantize(x, s, target))
    for scale in SCALES:
        q = function(tf.constant(x), tf.constant(scale)).numpy()
        assert_bit_equal(q, reference(x, scale, target))


@each_mode
@each_float8
def test_quantize_by_a_constant(run, target):
    x, scales = every_input("bfloat16"), (1.0, 2.0**-7, 2.0**9, 0.1, 1 / 3)
    function = run(lambda x: [ops.quantize(x, s, target) for s in scales])
    for scale, q in zip(scales, function(tf.constant(x)), strict=True):
        assert_bit_equal(q.numpy(), reference(x, scale, target))


def around_ties(target):
    """Returns float32 inputs and the codes they must round to.

    For each pair of neighbours: their midpoint, and the closest float32 below
    and above it.  `n` codes up, the midpoint has no tie but saturates.
    """
    values = finite_values(target)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    below = np.nextafter(middle, np.float32(0))
    above = np.nextafter(middle, np.float32(np.inf))
    low = np.arange(len(middle))
    even = low + low % 2
    x = np.concatenate([below, middle, above, values.astype(np.float32)])
    codes = [low, even, low + 1, np.arange(len(values))]
    codes = np.concatenate(codes).astype(np.uint8)
    top = np.float32(values[-1])
    beyond = [np.nextafter(top, np.float32(np.inf)), top * 1.03125, top * 1.125]
    x = np.append(x, np.float32([*beyond, 3e38, np.inf]))
    codes = np.append(codes, np.full(5, len(values) - 1, np.uint8))
    return np.append(x, -x), np.append(codes, codes | 0x80)


@each_mode
@each_float8
def test_quantize_rounds_to_nearest_even_and_saturates(run, target):
    x, codes = around_ties(target)
    expected = codes.view(target.dtype)
    assert_bit_equal(reference(x, 1.0, target), expected)
    function = run(lambda x, s: ops.quantize(x, s, target))
    for scale in (1.0, 2.0**-20, 2.0**40):
        with np.errstate(over="ignore"):
            scaled = x / np.float32(scale)
        fits = np.isfinite(scaled) | np.isinf(x)
        q = function(tf.constant(scaled), tf.constant(scale)).numpy()
        assert_bit_equal(q[fits], expected[fits])


@st.composite
def inputs_and_scales(draw):
    """Draws float32 arrays: any pattern, or magnitudes around FP8's."""
    x = draw(hnp.arrays(np.uint32, 32, elements=st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        exponents = 100 + (x >> 23 & 0xFF) % 46
        x = x & 0x807FFFFF | exponents << 23
    power = draw(st.integers(-100, 99))
    fraction = draw(st.one_of(st.just(1.0), st.floats(1, 2, width=32)))
    return x.view(np.float32), np.float32(fraction * 2.0**power)


@each_float8
def test_quantize_any_float32(target):
    functions = [
        run(lambda x, s: ops.quantize(x, s, target)) for run in MODES.values()
    ]

    @hypothesis.given(inputs_and_scales())
    def check(case):
        x, scale = case
        for function in functions:
            q = function(tf.constant(x), tf.constant(scale)).numpy()
            assert_bit_equal(q, reference(x, scale, target))

    check()


@each_mode
@each_float8
def test_subnormal_inputs_are_kept_or_zero(run, target):
    x = np.uint32([1, 0x80000001, 0x7FFFFF, 0x400000]).view(np.float32)
    function = run(lambda x, s: ops.quantize(x, s, target))
    q = bits(function(tf.constant(x), tf.constant(2.0**126)).numpy())
    kept = bits(reference(x, 2.0**126, target))
    assert np.all((q == kept) | (q == bits(np.signbit(x) * np.uint8(0x80))))


@each_pair
def test_quantize_with_a_scale_for_each_row(run, target, dtype):
    x = np.random.default_rng(0).normal(size=(3, 50)).astype(dtype)
    scale = np.float32([[1.0], [2.0**10], [0.3]])
    function = run(lambda x, s: ops.quantize(x, s, target))
    q = function(tf.constant(x), tf.constant(scale)).numpy()
    assert_bit_equal(q, reference(x, scale, target))
    function = run(lambda q, s: ops.dequantize(q, s, dtype))
    y = function(tf.constant(q), tf.constant(scale)).numpy()
    assert_bit_equal(y, (q.astype(np.float32) / scale).astype(dtype))


@each_pair
def test_dequantize_every_code(run, target, dtype):
    codes = codes_of(target)
    function = run(lambda q, s: ops.dequantize(q, s, dtype))
    for scale in (1.0, 2.0**-4, 2.0**12, 3.0, 0.1, 2.0**-100, 2.0**100):
        y = function(tf.constant(codes), tf.constant(scale)).numpy()
        with np.errstate(over="ignore"):
            exact = codes.astype(np.float32) / np.float32(scale)
            assert_bit_equal(y, exact.astype(dtype))


@each_pair
def test_codes_to_values_and_back(run, target, dtype):
    scales = 1.0, 2.0**4

    def there_and_back(q):
        values = [ops.dequantize(q, scale, dtype) for scale in scales]
        pairs = zip(values, scales, strict=True)
        return values, [ops.quantize(y, scale, target) for y, scale in pairs]

    codes = codes_of(target)
    results = run(there_and_back)(tf.constant(codes))
    finite = np.isfinite(codes.astype(np.float64))
    for y, q, scale in zip(*results, scales, strict=True):
        assert (y.dtype, q.dtype) == (dtype, target.dtype)
        assert_bit_equal(q, reference(codes, 1.0, target))
        exact = codes.astype(np.float64)[finite] / scale
        found = y.numpy().astype(np.float64)[finite]
        np.testing.assert_array_equal(found, exact)


@each_mode
@each_float8
def test_dequantize_by_a_constant(run, target):
    """A graph may multiply by the inverse: one more rounding, if it rounds."""
    codes = codes_of(target)[np.isfinite(codes_of(target).astype(np.float32))]
    scales = 2.0**-4, 2.0**12, 3.0, 0.1
    function = run(lambda q: [ops.dequantize(q, s) for s in scales])
    for scale, y in zip(scales, function(tf.constant(codes)), strict=True):
        exact = codes.astype(np.float64) / np.float32(scale)
        is_power = math.frexp(scale)[0] == 0.5
        relative = 0 if is_power else formats.FLOAT32.epsilon
        assert np.all(np.abs(y - exact) <= relative * np.abs(exact))


def test_quantize_float64():
    q = ops.quantize(tf.constant([1.0, -3e300], tf.float64), 1.0, "E4M3")
    np.testing.assert_array_equal(q.numpy().astype(np.float32), [1.0, -448.0])


@each_float8
def test_identifiers_of_a_format(target):
    for dtype in (target, target.name, target.dtype, tf.as_dtype(target.dtype)):
        assert ops.quantize(1.0, 1.0, dtype).dtype == target.dtype


BAD_ARGUMENTS = [
    ("quantize", (1, 1.0, "E4M3"), TypeError, "x"),
    ("quantize", (tf.cast(1.0, "float8_e5m2"), 1.0, "E4M3"), TypeError, "x"),
    ("quantize", (1.0, 1, "E4M3"), TypeError, "scale"),
    ("quantize", (1.0, 1.0, "bfloat16"), ValueError, "dtype"),
    ("quantize", (1.0, 1.0, "E3M4"), ValueError, "dtype"),
    ("quantize", (1.0, 1.0, None), TypeError, "dtype"),
    ("dequantize", (1.0, 1.0), TypeError, "q"),
    ("dequantize", (tf.constant(1, tf.uint8), 1.0), TypeError, "q"),
    ("dequantize", (tf.cast(1.0, "float8_e5m2"), 1), TypeError, "scale"),
    (
        "dequantize",
        (tf.cast(1.0, "float8_e5m2"), 1.0, "E4M3"),
        ValueError,
        "dtype",
    ),
    ("sqnr", (1, 1.0), TypeError, "reference"),
    ("sqnr", (1.0, 1), TypeError, "approximation"),
    ("underflow_share", (1, 1.0, "E4M3"), TypeError, "x"),
    ("saturation_share", (1.0, 1, "E4M3"), TypeError, "scale"),
    ("saturation_share", (1.0, 1.0, "float16"), ValueError, "dtype"),
    ("max_ulp_error", (1.0, 1.0, "float32"), ValueError, "dtype"),
    ("max_ulp_error", (True, 1.0, "E4M3"), TypeError, "x"),
]


@pytest.mark.parametrize(
    ("function", "arguments", "error", "name"), BAD_ARGUMENTS
)
def test_errors(function, arguments, error, name):
    with pytest.raises(error, match=rf"`{name}` must be .*Received: "):
        getattr(ops, function)(*arguments)


def test_ops_exports_these_functions():
    for name in (
        "quantize",
        "dequantize",
        "sqnr",
        "underflow_share",
        "saturation_share",
        "max_ulp_error",
    ):
        assert getattr(ops, name) is getattr(quantization, name)


# From here on: the measures of error.


def decibels(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return 10 * np.log10(np.sum(x**2) / np.sum((x - y) ** 2))


def assert_decibels(result, expected, size):
    """A sum of `size` float64 values, and the result as a float32."""
    summation = 10 / math.log(10) * size * 2.0**-52
    rounding = formats.FLOAT32.epsilon * abs(expected)
    assert abs(float(result) - expected) <= rounding + summation


@each_mode
@each_float
def test_sqnr(run, dtype):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(37, 53)).astype(dtype)
    function = run(ops.sqnr)
    for noise in (1e-2, 1.0, 30.0):
        y = x.astype(np.float32) + noise * generator.normal(size=x.shape)
        y = y.astype(dtype)
        result = function(tf.constant(x), tf.constant(y))
        assert (result.dtype, result.shape) == (tf.float32, ())
        assert_decibels(result, decibels(x, y), x.size)


def test_sqnr_comparison_can_fail():
    assert_decibels(np.float32(31.5), 31.5, 100)
    with pytest.raises(AssertionError):
        assert_decibels(np.float32(31.50001), 31.5, 100)


@each_mode
def test_sqnr_of_edge_cases(run):
    function, eps = run(ops.sqnr), formats.FLOAT32.epsilon
    for x, y, expected in (
        ([1.0, 2.0], [1.0, 2.0], np.inf),
        ([0.0, -0.0], [0.0, 0.0], np.inf),
        ([], [], np.inf),
        ([3.0, 4.0], [3.0, 4.5], 20.0),
        ([1e30, 1e30], [0.0, 0.0], 0.0),
        ([1e-30, 0.0], [0.0, 1e-30], -10 * math.log10(2)),
        ([0.0, 0.0], [0.0, 1.0], -np.inf),
        ([1.0, 2.0], [np.inf, 2.0], -np.inf),
        ([1.0, 2.0], [np.nan, 2.0], np.nan),
        ([np.nan, 2.0], [1.0, 2.0], np.nan),
        ([np.nan, 2.0], [np.nan, 2.0], np.nan),
        ([np.inf, 2.0], [np.inf, 2.0], np.nan),
    ):
        result = function(tf.constant(x, tf.float32), tf.constant(y))
        # 1e30 and 1e-30 are not float32 numbers, but their ratios are exact.
        np.testing.assert_allclose(
            result, expected, rtol=2 * eps, atol=1e-12, err_msg=f"{x}, {y}"
        )


def expected_sqnr(target, scale):
    """Integrates the squared error under the density of N(0, 1)."""
    values = finite_values(target) / scale
    edges = [0, *(values[1:] + values[:-1]) / 2, 1e3]

    def integral(x, c):  # of (x - c)**2 times the density
        density = math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        below = math.erf(x / math.sqrt(2)) / 2
        return (1 + c**2) * below + (2 * c - x) * density

    noise = sum(
        integral(b, c) - integral(a, c)
        for a, b, c in zip(edges, edges[1:], values, strict=False)
    )
    return -10 * math.log10(2 * noise)


def sampling_error(x, y):
    """Returns five standard errors of an SQNR, in dB."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    terms = x**2, (x - y) ** 2
    shares = [np.std(t) / np.mean(t) / math.sqrt(x.size) for t in terms]
    return 5 * 10 / math.log(10) * sum(shares)


@each_pair
def test_sqnr_of_a_normal_distribution(run, target, dtype):
    """Half a dB is a twelfth of what one bit of mantissa is worth."""
    known, scale = {"E4M3": 31.5, "E5M2": 25.5}[target.name], 2.0**5
    x = np.random.default_rng(0).normal(size=2**18)
    x = x.astype(np.float32).astype(dtype)

    def measure(x):
        y = ops.dequantize(ops.quantize(x, scale, target), scale)
        return y, ops.sqnr(x, y)

    expected = expected_sqnr(target, scale)
    assert round(expected, 1) == known
    y, result = run(measure)(tf.constant(x))
    # An input of n grid points an ulp has 1 + 2 / n**2 times the noise.
    grid = 2 * (formats.get(dtype).epsilon / target.epsilon) ** 2
    tolerance = sampling_error(x, y.numpy()) + 10 * math.log10(1 + grid)
    assert abs(float(result) - expected) < tolerance < 0.5


def scaled_by(x, scale):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return x.astype(np.float32) * np.float32(scale)


def assert_share(result, part, whole):
    """Allows two roundings: XLA may multiply by the inverse of a count.

    A count that is wrong by one changes the share by more.
    """
    exact = np.sum(part) / np.sum(whole)
    assert abs(float(result) - exact) <= formats.FLOAT32.epsilon * exact


@each_pair
def test_shares(run, target, dtype):
    x = every_input(dtype)
    functions = [
        run(lambda x, s, f=function: f(x, s, target))
        for function in (ops.underflow_share, ops.saturation_share)
    ]
    # As zeros, in TensorFlow on a CPU: not what this test is about.
    x = x[~(np.abs(x.astype(np.float32)) < formats.FLOAT32.min_normal)]
    x = np.append(x, np.zeros(1000, x.dtype))
    for scale in SCALES:
        arguments = tf.constant(x), tf.constant(scale)
        underflow, saturation = (f(*arguments).numpy() for f in functions)
        zero = reference(x, scale, target).astype(np.float32) == 0
        other = x.astype(np.float32) != 0
        assert_share(underflow, zero & other, other)
        clipped = np.abs(scaled_by(x, scale)) > target.max
        assert_share(saturation, clipped, np.ones_like(clipped))


@each_mode
@each_float8
def test_shares_of_edge_cases(run, target):
    function = run(
        lambda x: (
            ops.underflow_share(x, 1.0, target),
            ops.saturation_share(x, 1.0, target),
        )
    )
    for values, *expected in (
        ([], 0.0, 0.0),
        ([0.0, -0.0], 0.0, 0.0),
        ([1.0, -2.0], 0.0, 0.0),
        ([1e-9, -1e-9, 0.0, 0.0], 1.0, 0.0),
        ([1e9, -1e9], 0.0, 1.0),
        ([np.inf, -np.inf, 1.0, 2.0], 0.0, 0.5),
        ([np.nan, 1e-9, 1.0, 1e9], 0.25, 0.25),
        ([np.nan, np.nan], 0.0, 0.0),
        ([[1e-9, 1.0], [1e9, 0.0]], 1 / 3, 0.25),
    ):
        x = tf.constant(values, tf.float32)
        for result, share in zip(function(x), expected, strict=True):
            assert (result.dtype, result.shape) == (tf.float32, ())
            error = abs(result.numpy() - share)
            assert error <= formats.FLOAT32.epsilon / 2, values


@each_mode
@each_float8
def test_shares_at_the_limits(run, target):
    """A tie goes to zero, and the maximum itself is not clipped."""
    half, top = np.float32(target.min_subnormal / 2), np.float32(target.max)
    more = np.nextafter(np.float32([half, top]), np.float32(np.inf))
    x = tf.constant([half, more[0], top, more[1]])
    functions = ops.underflow_share, ops.saturation_share
    for function in functions:
        result = run(lambda x, f=function: f(x, 1.0, target))(x)
        assert result.numpy() == 0.25


@each_mode
def test_shares_count_past_float32(run):
    """2**24 + 1 is no float32, but a sum of ones must not stop at 2**24."""

    def measure(ones):
        x = tf.tile(ones, [2**12]) * tf.constant(1e-9, ones.dtype)
        return ops.underflow_share(tf.concat([x, ones], 0), 1.0, "E4M3")

    result = run(measure)(tf.ones([2**12], tf.bfloat16)).numpy()
    assert_share(result, 2**12, 2**12 + 1)


def test_share_comparison_can_fail():
    assert_share(np.float32(0.25), 2**14, 2**16)
    for part in (2**14 - 1, 2**14 + 1):
        with pytest.raises(AssertionError):
            assert_share(np.float32(0.25), part, 2**16)


def ulp_reference(x, scale, target):
    """Computes the largest error in ulp, exactly, in float64."""
    scaled = scaled_by(x, scale).astype(np.float64)
    value = reference(x, scale, target).astype(np.float64)
    _, exponent = np.frexp(scaled)
    lowest = target.min_exponent
    exponent = np.clip(exponent - 1, lowest, target.max_exponent)
    return np.max(np.abs(value - scaled) / np.ldexp(target.epsilon, exponent))


@each_pair
def test_max_ulp_error(run, target, dtype):
    generator = np.random.default_rng(0)
    function = run(lambda x, s: ops.max_ulp_error(x, s, target))
    for scale in (1.0, 2.0**-5, 2.0**9, 0.3):
        x = generator.normal(size=1001).astype(dtype)
        result = function(tf.constant(x), tf.constant(scale))
        assert (result.dtype, result.shape) == (tf.float32, ())
        assert result.numpy() == np.float32(ulp_reference(x, scale, target))


@each_float8
def test_max_ulp_error_of_any_float32(target):
    functions = [
        run(lambda x, s: ops.max_ulp_error(x, s, target))
        for run in MODES.values()
    ]
    # What a subnormal product that the CPU takes for zero is worth, in ulp.
    flushed = formats.FLOAT32.min_normal / target.min_subnormal

    @hypothesis.given(inputs_and_scales())
    def check(case):
        x, scale = case
        scaled = scaled_by(x, scale)
        fits = np.abs(scaled) <= target.max  # nor is it NaN
        normal = np.abs(x) >= formats.FLOAT32.min_normal
        x = np.where(fits & normal, x, 0)
        for function in functions:
            result = function(tf.constant(x), tf.constant(scale)).numpy()
            expected = np.float32(ulp_reference(x, scale, target))
            assert abs(result - expected) <= flushed
            assert 0 <= result <= 0.5

    check()


@each_mode
@each_float8
def test_max_ulp_error_of_ties_and_edge_cases(run, target):
    """It is half of one, then."""
    values = finite_values(target)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    function = run(lambda x: ops.max_ulp_error(x, 1.0, target))
    for x in middle:
        assert function(tf.constant([x, 0.0])).numpy() == 0.5
    assert function(tf.constant(values, tf.float32)).numpy() == 0

    top = target.max
    ulp = 2.0**target.max_exponent * target.epsilon
    for given, expected in (
        ([0.0, -0.0], 0.0),
        ([], 0.0),
        ([1.0, np.inf], np.inf),
        ([1.0, -np.inf], np.inf),
        ([1.0, 2 * top], top / ulp),  # It shows saturation.
    ):
        result = function(tf.constant(given, tf.float32)).numpy()
        assert result == expected, given


@each_float8
def test_max_ulp_error_of_nan_is_the_same_in_each_mode(target):
    functions = [
        run(lambda x: ops.max_ulp_error(x, 1.0, target))
        for run in MODES.values()
    ]
    for values in ([np.nan], [1.0625, np.nan], [np.nan, 1.0625]):
        results = {str(f(tf.constant(values)).numpy()) for f in functions}
        assert len(results) == 1, results


@each_pair
def test_one_outlier_hides_the_loss_of_all_else(run, target, dtype):
    """Each value but one is lost, at an SQNR that looks perfect."""
    size, outlier = 4096, 2.0**15
    x = np.full(size, 2.0**-23)
    x[size // 2] = outlier

    def measure(x):
        scale = ops.compute_scale(ops.amax(x), target)
        y = ops.dequantize(ops.quantize(x, scale, target), scale)
        return ops.sqnr(x, y), ops.underflow_share(x, scale, target)

    sqnr, underflow = run(measure)(tf.constant(x, dtype))
    lost = (size - 1) * 2.0**-46
    signal = outlier**2 + lost
    assert_decibels(sqnr, 10 * math.log10(signal / lost), size)
    assert sqnr > 150
    assert underflow.numpy() == (size - 1) / size
