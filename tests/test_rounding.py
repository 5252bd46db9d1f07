"""Numbers in the formats, as `tfmp formats 0.1` shows them."""

from __future__ import annotations

import math
import sys

import ml_dtypes
import numpy as np
import pytest

import tfmp
from tfmp import formats
from tfmp._command_line.rounding import nearest


@pytest.mark.parametrize("format", formats.ALL, ids=lambda f: f.name)
def test_rounding_is_that_of_ml_dtypes(format):
    dtype = np.dtype(getattr(ml_dtypes, format.dtype, format.dtype))
    rng = np.random.default_rng(0)
    low = math.log2(format.min_subnormal) - 3
    high = math.log2(format.max)
    sizes = 2.0 ** rng.uniform(low, high - 1e-6, 400)
    ties = [format.min_subnormal * k / 2 for k in range(20)]
    edges = [format.max, format.min_normal, -format.epsilon, 0.0, -0.0]
    for x in [*sizes, *-sizes, *ties, *edges]:
        found = nearest(format, float(x))
        expected = np.asarray(x, np.float64).astype(dtype)
        bits = int.from_bytes(expected[None].tobytes(), sys.byteorder)
        if format is formats.E8M0 and 2.0**-127 <= x < 1.5 * 2.0**-127:
            expected, bits = 2.0**-127, 0  # ml_dtypes rounds this binade up
        assert repr(found.nearest) == repr(float(expected))
        assert found.code == bits
        assert found.ulp <= 0.5 or format is formats.E8M0
        assert (found.fate == "exact") == (found.nearest == x) or any(
            word in found.fate for word in ("subnormal", "becomes NaN")
        )


def test_what_is_too_large():
    assert nearest(formats.E4M3, 464.1).fate == "clipped to the largest"
    assert nearest(formats.E4M3, 463.0).nearest == 448
    assert nearest(formats.E4M3, 463.0).fate == "rounded"
    assert nearest(formats.E5M2, -1e9)[:2] == (-57344, 0xFB)
    assert nearest(formats.FLOAT16, 65520.0)[:2] == (math.inf, 0x7C00)
    assert nearest(formats.FLOAT32, -1e300)[:2] == (-math.inf, 0xFF800000)


@pytest.mark.parametrize("format", formats.ALL, ids=lambda f: f.name)
def test_what_is_not_finite(format):
    """As ml_dtypes has it; but small formats saturate, as tfmp does."""
    name = getattr(ml_dtypes, format.dtype, format.dtype)
    for x in (math.inf, -math.inf, math.nan, -math.nan):
        found = nearest(format, x)
        expected = np.asarray([x]).astype(name)
        if format.bits <= 8:
            q = tfmp.ops.emulate(np.float32([x]), format).numpy()
            assert math.isnan(found.nearest) or q[0] == found.nearest
            expected = expected if math.isnan(x) else q.astype(name)
        if math.isnan(x) and not format.has_nan:
            assert math.isnan(found.nearest) and found.code is None
            continue
        bits = int.from_bytes(expected.tobytes(), sys.byteorder)
        assert found.code == bits
        assert repr(found.nearest) == repr(float(expected[0]))
        said = "stays" if not math.isfinite(found.nearest) else "clipped"
        assert found.fate.startswith(said) or "becomes NaN" in found.fate
    assert "saturates" in nearest(formats.E5M2, math.inf).fate
    assert "no infinity" in nearest(formats.E4M3, math.inf).fate
