"""statistics and probes: what quantization did to a tensor."""

import math

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmp import formats, ops, recipes
from tfmp._core import probes, scaling, statistics

DTYPES = {
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
}
LOWEST_BINADE = {"E4M3": -9, "E5M2": -16}
HIGHEST_BINADE = {"E4M3": 8, "E5M2": 15}


def measure(x, exponent, name, **options):
    x = tf.convert_to_tensor(x)
    vector = statistics.measure(
        x,
        tf.constant(2.0**exponent),
        formats.get(name),
        scaling.amax(x),
        **options,
    )
    return vector.numpy()


def described(x, exponent, name, **options):
    vector = measure(x, exponent, name, **options)
    return statistics.describe(vector, formats.get(name))


def oracle(x, exponent, name):
    """The same in NumPy and ml_dtypes, in float64 throughout."""
    scaled = np.asarray(x, np.float64).ravel() * 2.0**exponent
    top = float(ml_dtypes.finfo(DTYPES[name]).max)
    clipped = np.clip(scaled, -top, top).astype(np.float32)
    low = clipped.astype(DTYPES[name]).astype(np.float64)
    noise = np.sum((scaled - low) ** 2)
    nonzero = scaled != 0
    there = np.floor(np.log2(np.abs(scaled[nonzero])))
    low_end, high_end = LOWEST_BINADE[name], HIGHEST_BINADE[name]
    there = there[(there >= low_end) & (there <= high_end)]
    binades = high_end - low_end + 1
    return {
        "observed_amax": np.max(np.abs(np.asarray(x, np.float64))),
        "underflow_share": np.sum(nonzero & (low == 0)) / np.sum(nonzero),
        "saturation_share": np.mean(np.abs(scaled) > top),
        "sqnr": 10 * np.log10(np.sum(scaled**2) / noise) if noise else math.inf,
        "range_share": (there.max() - there.min() + 1) / binades,
        "lag": exponent - math.floor(math.log2(top / np.max(np.abs(x)))),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("exponent", [-3, 0, 5, 8])
def test_against_an_oracle(dtype, name, exponent):
    rng = np.random.default_rng(exponent + 7)
    x = rng.normal(size=[64, 48]) * 10.0 ** rng.uniform(-6, 1.5, [64, 48])
    x = tf.cast(x, dtype)
    expected = oracle(tf.cast(x, tf.float64).numpy(), exponent, name)
    found = described(x, exponent, name)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.floats(-1e6, 1e6, width=32).map(
            lambda x: 0.0 if abs(x) < 1e-30 else x
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(-20, 20),
    st.sampled_from(sorted(DTYPES)),
)
def test_shares_of_any_tensor_are_shares(values, exponent, name):
    found = described(np.array(values, np.float32), exponent, name)
    for key in ("underflow_share", "saturation_share", "range_share"):
        assert math.isnan(found[key]) or 0 <= found[key] <= 1
    assert 0 <= found["saturation_share"] <= 1
    lowest, counts = statistics.histogram(
        measure(np.array(values, np.float32), exponent, name)
    )
    assert sum(counts) == np.count_nonzero(values)
    assert statistics.LOWEST <= lowest


def test_merged_statistics_are_those_of_both_tensors():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=[2, 32, 16]).astype("float32")
    second *= 1e-3
    merged = statistics.merge(
        tf.constant(measure(first, 4, "E4M3")),
        tf.constant(measure(second, 4, "E4M3")),
    ).numpy()
    both = measure(np.concatenate([first, second]), 4, "E4M3")
    np.testing.assert_allclose(merged, both, rtol=1e-5)
    started = statistics.merge(tf.constant(statistics.START), tf.constant(both))
    np.testing.assert_array_equal(started, both)


def test_the_histogram_counts_exponents():
    x = np.array([0.0, 1.0, 1.5, -2.0, 2.0**-30, 2.0**-60, 2.0**50], np.float32)
    lowest, counts = statistics.histogram(measure(x, 1, "E4M3"))
    # 2**-60 and 2**50 are in the first and the last bin.
    assert lowest == statistics.LOWEST
    exponents = {lowest + i: n for i, n in enumerate(counts) if n}
    assert exponents == {-40: 1, -29: 1, 1: 2, 2: 1, 23: 1}


def test_what_is_not_there():
    zeros = described(np.zeros([4], np.float32), 0, "E4M3")
    assert zeros["saturation_share"] == 0.0
    for key in ("underflow_share", "sqnr", "range_share", "lag"):
        assert math.isnan(zeros[key])
    nothing = statistics.describe(statistics.START, formats.get("E4M3"))
    assert nothing == {}
    assert statistics.histogram(statistics.START) == (statistics.LOWEST, [])
    nan = described(np.array([1.0, math.nan], np.float32), 0, "E4M3")
    assert math.isnan(nan["sqnr"]) and nan["observed_amax"] == math.inf
    exact = described(np.array([1.0, 2.0], np.float32), 0, "E4M3")
    assert exact["sqnr"] == math.inf


def test_rows_are_evenly_spread_and_whole():
    x = tf.reshape(tf.range(1024 * 8), [64, 16, 8])
    some = statistics.rows(x, 512).numpy()
    assert some.shape[1] == 8 and 256 <= some.size <= 1024
    rows = some[:, 0] // 8
    # Not the same places of every sequence of 16.
    assert len(set(rows % 16)) == 16
    assert statistics.rows(x, None) is x
    assert statistics.rows(x, 10**9).shape[0] == 1024
    assert statistics.rows(tf.constant(1.0), 4).shape == []


@pytest.mark.parametrize("jit", [True, False])
def test_rows_of_an_unknown_length(jit):
    function = tf.function(
        lambda x: statistics.rows(x, 32),
        input_signature=[tf.TensorSpec([None, 4])],
        jit_compile=jit,
    )
    assert function(tf.ones([64, 4])).shape[0] == pytest.approx(8, abs=3)


def test_a_sample_estimates_the_shares():
    x = np.random.default_rng(1).normal(size=[4096, 64]).astype("float32")
    x *= np.random.default_rng(2).uniform(size=x.shape) ** 12
    whole = described(x, 4, "E4M3")
    some = described(x, 4, "E4M3", elements=2**14)
    share = whole["underflow_share"]
    error = math.sqrt(share * (1 - share) / 2**14)
    assert 0.05 < share < 0.95
    assert some["underflow_share"] == pytest.approx(share, abs=5 * error)
    assert some["observed_amax"] == whole["observed_amax"]


def test_margin_is_part_of_the_lag():
    x = np.array([1.0], np.float32)
    assert described(x, 8, "E4M3")["lag"] == 0
    assert described(x, 8, "E4M3", margin=2)["lag"] == 2


def test_a_probe_takes_in_what_operators_quantize():
    probe = probes.Probe(elements=None)
    x = tf.constant([[1.0, 1e-9, 0.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.matmul(x, tf.ones([4, 2]), amax=ops.Pass(probe=probe))
        loss = tf.reduce_sum(y * [[1.0, 1e-12]])
    tape.gradient(loss, x)
    inputs, kernel, grads = probe.read(recipes.CurrentScaling()).values()
    assert inputs["underflow_share"] == pytest.approx(1 / 3)
    assert inputs["observed_amax"] == 3.0 and inputs["lag"] == 0
    assert kernel["sqnr"] == math.inf
    assert grads["underflow_share"] == 0.5
    assert probe.read("current") == {role: {} for role in recipes.ROLES}


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`elements` must be 1 or more"):
        probes.Probe(0)
    with pytest.raises(TypeError, match="`elements` must be an integer"):
        probes.Probe(2.5)
    with pytest.raises(TypeError, match="`recipe` must be"):
        probes.Probe().read(3)
    with pytest.raises(TypeError, match="`probe` must be a tfmp"):
        ops.Pass(probe=3)
