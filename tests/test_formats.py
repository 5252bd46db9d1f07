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
    assert fmt.bits == info.bits
    assert fmt.exponent_bits == info.nexp
    assert fmt.mantissa_bits == info.nmant
    assert fmt.max == float(info.max)
    assert float(info.min) == (-fmt.max if fmt.signed else fmt.min_normal)
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


@pytest.mark.parametrize(
    "fmt", [f for f in formats.ALL if f.bits <= 16], ids=lambda f: f.name
)
def test_every_code(fmt):
    codes = np.arange(2**fmt.bits, dtype="uint16" if fmt.bits > 8 else "uint8")
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        expected = codes.view(fmt.dtype).astype(np.float64)
    values = np.array([fmt.decode(int(c)) for c in codes])
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(
        np.signbit(values)[values == 0], np.signbit(expected)[values == 0]
    )
    finite = values[np.isfinite(values)]
    assert finite.max() == fmt.max
    assert finite[finite > 0].min() == fmt.min_subnormal
    assert np.isinf(values).any() == fmt.has_infinity
    assert np.isnan(values).any() == fmt.has_nan
    assert (values == 0).any() == fmt.has_zero
    assert values[fmt.max_code] == fmt.max


@pytest.mark.parametrize("specials", ["ieee", "fn", "fnuz", "none"])
@pytest.mark.parametrize("mantissa_bits", [0, 1, 4])
def test_formats_of_ones_own(specials, mantissa_bits):
    fmt = formats.Format("X", "", 4, mantissa_bits, specials, bias=5)
    codes = range(2 ** (fmt.bits - 1))
    values = [fmt.decode(code) for code in codes]
    finite = [value for value in values if np.isfinite(value)]
    assert finite == sorted(set(finite)) == values[: fmt.max_code + 1]
    assert finite[-1] == fmt.max and finite[0] == 0
    assert fmt.min_subnormal == finite[1] == 2.0 ** (1 - 5 - mantissa_bits)
    lost = {"ieee": 2**mantissa_bits, "fn": 1}.get(specials, 0)
    assert len(values) - len(finite) == lost
    assert np.isnan(fmt.decode(2 ** (fmt.bits - 1))) == (specials == "fnuz")
    assert formats.get(formats.serialize(fmt)) == fmt


def test_unsigned():
    fmt = formats.Format("UE4M3", "", 4, 3, "fn", signed=False)
    assert (fmt.bits, fmt.max, fmt.decode(0)) == (7, 448.0, 0.0)
    assert formats.E8M0.decode(0) == 2.0**-127 == formats.E8M0.min_normal


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"exponent_bits": 0}, ValueError, "`exponent_bits`"),
        ({"mantissa_bits": -1}, ValueError, "`mantissa_bits`"),
        ({"mantissa_bits": 3.0}, TypeError, "`mantissa_bits`"),
        ({"specials": "inf"}, ValueError, "`specials`"),
        ({"specials": None}, TypeError, "`specials`"),
        ({"bias": 2000}, ValueError, "`bias`"),
        ({"bias": -1015}, ValueError, "`bias`"),
        ({"bias": 1.0}, TypeError, "`bias`"),
        ({"signed": 1}, TypeError, "`signed`"),
        ({"signed": False, "specials": "fnuz"}, ValueError, "`specials`"),
        ({"exponent_bits": 1, "mantissa_bits": 0}, ValueError, "above zero"),
    ],
)
def test_fields_are_checked(fields, error, said):
    good = {"name": "X", "dtype": "", "exponent_bits": 4, "mantissa_bits": 3}
    with pytest.raises(error, match=said) as caught:
        formats.Format(**{**good, **fields})
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize("code", [-1, 256, 1.0, True])
def test_codes_are_checked(code):
    with pytest.raises((TypeError, ValueError), match="`code` must be"):
        formats.E4M3.decode(code)


def test_blocks():
    assert [f.bits for f in formats.BLOCKS] == [
        8.25,
        8.25,
        6.25,
        6.25,
        4.25,
        4.5,
    ]
    for block in formats.BLOCKS:
        assert formats.get(block.name.lower()) is block
        assert formats.get(formats.serialize(block)) is block
        own = dataclasses.replace(block, name="own", block_size=7)
        assert formats.get(formats.serialize(own)) == own
        with pytest.raises(ValueError, match="a plain format"):
            formats.get_plain(block)
    assert [f.scale_rounding for f in formats.BLOCKS] == ["floor"] * 5 + [
        "nearest"
    ]


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"element": "E2M1"}, TypeError, "`element`"),
        ({"block_size": 0}, ValueError, "`block_size`"),
        ({"block_size": True}, TypeError, "`block_size`"),
        ({"scale_rounding": "up"}, ValueError, "`scale_rounding`"),
        ({"scale_rounding": "nearest"}, ValueError, "`scale_rounding`"),
        ({"scale": formats.E4M3}, ValueError, "`scale_rounding`"),
        ({"tensor_scale": 1}, TypeError, "`tensor_scale`"),
    ],
)
def test_fields_of_blocks_are_checked(fields, error, said):
    with pytest.raises(error, match=said) as caught:
        dataclasses.replace(formats.MXFP4, **fields)
    assert "Received: " in str(caught.value)


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
    assert len(set(formats.ALL)) == 14
    named = {getattr(ml_dtypes, f.dtype, None) for f in formats.ALL}
    small = {n for n in dir(ml_dtypes) if n.startswith("float")}
    assert {getattr(ml_dtypes, name) for name in small} <= named
    assert formats.FLOAT8 == (formats.E4M3, formats.E5M2)
    assert dataclasses.replace(formats.E4M3, name="X") != formats.E4M3


@each_format
def test_get(fmt):
    named = [fmt.name, fmt.name.lower(), fmt.dtype, fmt.dtype.upper()]
    scalar = getattr(ml_dtypes, fmt.dtype, None) or getattr(np, fmt.dtype)
    objects = [fmt, np.dtype(fmt.dtype), scalar]
    if fmt in (*formats.FLOAT8, *formats.WIDE):
        objects.append(tf.as_dtype(fmt.dtype))
    for identifier in [*named, *objects]:
        assert formats.get(identifier) is fmt


@pytest.mark.parametrize(
    "identifier",
    ["", "e3m0", "float8", "E4M3 ", "float64", tf.int8, np.float64, float],
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
