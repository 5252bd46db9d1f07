"""tfmp.formats, held against ml_dtypes and against every code."""

import copy
import dataclasses
import pickle

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tfmp import formats

each_format = pytest.mark.parametrize("fmt", formats.ALL, ids=lambda f: f.name)


def finfo(fmt):
    return ml_dtypes.finfo(np.dtype(fmt.dtype))


@each_format
def test_properties(fmt):
    info = finfo(fmt)
    assert fmt.bits == info.bits == 8 * np.dtype(fmt.dtype).itemsize
    assert fmt.exponent_bits == info.nexp
    assert fmt.mantissa_bits == info.nmant
    assert fmt.max == float(info.max) == -float(info.min)
    assert fmt.min_normal == float(info.smallest_normal)
    assert fmt.min_subnormal == float(info.smallest_subnormal)
    assert fmt.epsilon == float(info.eps)
    assert fmt.min_exponent == info.minexp
    assert fmt.max_exponent == info.maxexp - 1


@each_format
def test_properties_are_plain_numbers(fmt):
    for name in ("max", "min_normal", "min_subnormal", "epsilon"):
        assert type(getattr(fmt, name)) is float
    for name in ("bits", "bias", "max_exponent", "min_exponent"):
        assert type(getattr(fmt, name)) is int


@pytest.mark.parametrize(
    ("fmt", "table"),
    [
        # bits, bias, max, min_normal, min_subnormal, epsilon, infinity;
        # arXiv 2209.05433, table 1.
        (formats.E4M3, (8, 7, 448.0, 2**-6, 2**-9, 2**-3, False)),
        (formats.E5M2, (8, 15, 57344.0, 2**-14, 2**-16, 2**-2, True)),
        (formats.FLOAT16, (16, 15, 65504.0, 2**-14, 2**-24, 2**-10, True)),
    ],
    ids=["E4M3", "E5M2", "FLOAT16"],
)
def test_table(fmt, table):
    assert table == (
        fmt.bits,
        fmt.bias,
        fmt.max,
        fmt.min_normal,
        fmt.min_subnormal,
        fmt.epsilon,
        fmt.has_infinity,
    )


def decode(fmt, code):
    """Returns the value of a code by the equations of tfmp.formats."""
    sign = -1.0 if code >> (fmt.bits - 1) else 1.0
    exponent = code >> fmt.mantissa_bits & 2**fmt.exponent_bits - 1
    mantissa = code & 2**fmt.mantissa_bits - 1
    if exponent == 2**fmt.exponent_bits - 1:
        if fmt.has_infinity:
            return np.nan if mantissa else sign * np.inf
        if mantissa == 2**fmt.mantissa_bits - 1:
            return np.nan
    if exponent == 0:
        return sign * mantissa * fmt.min_subnormal
    fraction = 1 + mantissa * fmt.epsilon
    return sign * 2.0 ** (exponent - fmt.bias) * fraction


@pytest.mark.parametrize(
    "fmt", [f for f in formats.ALL if f.bits <= 16], ids=lambda f: f.name
)
def test_every_code(fmt):
    codes = np.arange(2**fmt.bits, dtype=f"uint{fmt.bits}")
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        expected = codes.view(fmt.dtype).astype(np.float64)
    values = np.array([decode(fmt, int(c)) for c in codes])
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(
        np.signbit(values)[values == 0], np.signbit(expected)[values == 0]
    )
    finite = values[np.isfinite(values)]
    assert finite.max() == fmt.max
    assert finite[finite > 0].min() == fmt.min_subnormal
    assert np.isinf(values).any() == fmt.has_infinity


@each_format
def test_frozen_data(fmt):
    for field in dataclasses.fields(fmt):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(fmt, field.name, getattr(fmt, field.name))
    with pytest.raises(AttributeError):
        fmt.max = 1.0
    for other in (copy.deepcopy(fmt), pickle.loads(pickle.dumps(fmt))):
        assert other == fmt
        assert hash(other) == hash(fmt)


def test_formats_differ():
    assert len(set(formats.ALL)) == 5
    assert formats.FLOAT8 == (formats.E4M3, formats.E5M2)
    assert dataclasses.replace(formats.E4M3, name="X") != formats.E4M3


@each_format
def test_get(fmt):
    named = [fmt.name, fmt.name.lower(), fmt.dtype, fmt.dtype.upper()]
    scalar = getattr(ml_dtypes, fmt.dtype, None) or getattr(np, fmt.dtype)
    objects = [fmt, np.dtype(fmt.dtype), scalar, tf.as_dtype(fmt.dtype)]
    for identifier in [*named, *objects]:
        assert formats.get(identifier) is fmt


@pytest.mark.parametrize(
    "identifier",
    ["", "e3m4", "float8", "E4M3 ", "float64", tf.int8, np.float64, float],
)
def test_get_of_an_unknown_name(identifier):
    with pytest.raises(ValueError, match="`dtype` must be a format") as caught:
        formats.get(identifier)
    message = str(caught.value)
    assert message.endswith(f"Received: {identifier!r}")
    for fmt in formats.ALL:
        assert f"{fmt.name} ({fmt.dtype})" in message


@pytest.mark.parametrize("identifier", [None, 8, 1.0, ("E4M3",), ["E4M3"]])
def test_get_of_another_type(identifier):
    with pytest.raises(TypeError, match="`dtype` must be a") as caught:
        formats.get(identifier)
    assert str(caught.value).endswith(f"Received: {identifier!r}")
