"""builds: what a TensorFlow can compile for, by how it was built."""

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow as tf

from tfmp._support.builds import CUDA_SINCE, cuda_needed, cuda_of, lacking

PAIRS = st.tuples(st.integers(0, 20), st.integers(0, 12))


@pytest.mark.parametrize(
    ("info", "cuda"),
    [
        ({"cuda_version": "12.5.1"}, (12, 5)),
        ({"cuda_version": "12.8"}, (12, 8)),
        ({"cuda_version": "13"}, (13, 0)),
        ({"cuda_version": ""}, None),
        ({"is_rocm_build": True}, None),
        ({}, None),
    ],
)
def test_cuda_of(info, cuda):
    assert cuda_of(info) == cuda


def test_what_is_installed_can_be_asked():
    info = tf.sysconfig.get_build_info()
    assert (cuda_of(info) is None) == (not info.get("is_cuda_build"))


@pytest.mark.parametrize(
    ("capability", "cuda"),
    [
        ((7, 0), None),
        ((9, 0), None),
        ((10, 0), (12, 8)),
        ((10, 1), (12, 8)),
        ((10, 3), (12, 9)),
        ((12, 0), (12, 8)),
        ((12, 1), (12, 9)),
        ((13, 0), (12, 9)),
    ],
)
def test_cuda_needed(capability, cuda):
    assert cuda_needed(capability) == cuda


@hypothesis.given(PAIRS, PAIRS, PAIRS)
def test_a_later_cuda_compiles_for_no_less(one, other, capability):
    early, late = sorted([one, other])
    assert not lacking(None, capability) and not lacking(one, None)
    assert not lacking(late, capability) or lacking(early, capability)


@pytest.mark.parametrize("capability", CUDA_SINCE)
def test_the_wheel_of_2_21_compiles_for_no_blackwell(capability):
    needed = CUDA_SINCE[capability]
    said = lacking((12, 5), capability)
    assert "CUDA 12.5" in said and "CUDA {}.{} or later".format(*needed) in said
    assert lacking(needed, capability) == ""
