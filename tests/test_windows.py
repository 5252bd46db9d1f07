"""windows: shapes, and what a window means, by an interpreter of it."""

import numpy as np
import pytest

from tfmp._core.windows import Window


def run(window, lhs, rhs):
    """Returns what `stablehlo.convolution` is specified to give."""
    spatial = window.spatial
    x = order(lhs, window.lhs, "bf" + spatial)
    if window.reverse:
        flipped = [window.rhs.index(label) for label in spatial]
        apart, together = window.regrouped(rhs.shape)
        rhs = np.flip(rhs, flipped).reshape(apart)
        rhs = np.swapaxes(rhs, -3, -2).reshape(together)
    w = order(rhs, window.rhs, "oi" + spatial)
    x, w = holes(x, window.lhs_dilation), holes(w, window.rhs_dilation)
    for axis, (low, high) in enumerate(window.padding, 2):
        x = pad(x, axis, low, high)
    shape = [n - k + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True)]
    at = tuple(slice(None, None, stride) for stride in window.strides)
    views = np.lib.stride_tricks.sliding_window_view(
        x, w.shape[2:], tuple(range(2, x.ndim))
    )
    assert views.shape[2 : x.ndim] == tuple(shape)
    views = views[(slice(None), slice(None), *at)]
    groups = window.feature_groups * window.batch_groups
    axis = 1 if window.feature_groups > 1 else 0
    parts = [
        np.tensordot(
            v, k, [[1, *range(x.ndim, v.ndim)], [1, *range(2, w.ndim)]]
        )
        for v, k in zip(
            np.split(views, groups, axis), np.split(w, groups), strict=True
        )
    ]
    result = np.concatenate(parts, axis=-1)
    return order(result, "b" + spatial + "f", window.out)


def order(x, labels, wanted):
    return np.transpose(x, [labels.index(label) for label in wanted])


def holes(x, dilation):
    for axis, step in enumerate(dilation, 2):
        shape = list(x.shape)
        shape[axis] = (shape[axis] - 1) * step + 1
        spread = np.zeros(shape, x.dtype)
        spread[(slice(None),) * axis + (slice(None, None, step),)] = x
        x = spread
    return x


def pad(x, axis, low, high):
    ends = [(0, 0)] * x.ndim
    ends[axis] = (max(low, 0), max(high, 0))
    x = np.pad(x, ends)
    cut = slice(max(-low, 0), x.shape[axis] - max(-high, 0))
    return x[(slice(None),) * axis + (cut,)]


PLAIN = {
    "lhs": "b0f",
    "rhs": "0io",
    "out": "b0f",
    "strides": (1,),
    "padding": ((0, 0),),
    "lhs_dilation": (1,),
    "rhs_dilation": (1,),
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [10 + 2, 20 + 3, 30 + 4]),
        ({"padding": ((1, 0),)}, [1, 10 + 2, 20 + 3, 30 + 4]),
        ({"padding": ((-1, 1),)}, [20 + 3, 30 + 4, 40]),
        ({"strides": (2,)}, [10 + 2, 30 + 4]),
        ({"rhs_dilation": (2,)}, [10 + 3, 20 + 4]),
        ({"lhs_dilation": (2,)}, [10, 2, 20, 3, 30, 4]),
        ({"reverse": True, "rhs": "0oi"}, [1 + 20, 2 + 30, 3 + 40]),
    ],
)
def test_interpreter(changes, expected):
    """By hand: inputs 1 2 3 4 and the kernel 10 1."""
    x = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1)
    w = np.array([10.0, 1]).reshape(2, 1, 1)
    window = Window(**(PLAIN | changes))
    assert run(window, x, w).ravel().tolist() == expected
    assert window.result_shape(x.shape, w.shape) == [1, len(expected), 1]


def test_interpreter_groups():
    x = np.array([1.0, 2, 3, 4]).reshape(1, 1, 4)
    w = np.arange(12.0).reshape(1, 2, 6)
    window = Window(**(PLAIN | {"feature_groups": 2}))
    expected = [1 * a + 2 * (a + 6) for a in (0, 1, 2)]
    expected += [3 * a + 4 * (a + 6) for a in (3, 4, 5)]
    assert run(window, x, w).ravel().tolist() == expected
    assert window.result_shape(x.shape, w.shape) == [1, 1, 6]


def test_interpreter_batch_groups():
    x = np.array([1.0, 2, 3, 4]).reshape(4, 1, 1)
    w = np.array([10.0, 100]).reshape(1, 1, 2)
    window = Window(**(PLAIN | {"batch_groups": 2}))
    expected = [[10, 300], [20, 400]]
    assert run(window, x, w).reshape(2, 2).tolist() == expected
    assert window.result_shape(x.shape, w.shape) == [2, 1, 2]


@pytest.mark.parametrize(
    ("lhs", "rhs", "expected"),
    [
        ((None, 8, 4), (3, 4, 5), [None, 3, 5]),
        ((2, None, 4), (3, 4, 5), [2, None, 5]),
        ((2, 8, 4), (None, 4, 5), [2, None, 5]),
        ((2, 0, 4), (3, 4, 5), [2, 0, 5]),
        ((2, 3, 4), (3, 4, 5), [2, 1, 5]),
        ((2, 2, 4), (3, 4, 5), [2, 0, 5]),
    ],
)
def test_result_shape(lhs, rhs, expected):
    window = Window(**(PLAIN | {"strides": (2,)}))
    assert window.result_shape(lhs, rhs) == expected


def test_lengths_that_are_given():
    window = Window(**(PLAIN | {"lengths": (7,)}))
    assert window.result_shape((2, None, 4), (None, 4, 5)) == [2, 7, 5]


def test_order_of_the_result():
    changes = {"lhs": "fb0", "rhs": "oi0", "out": "0fb"}
    window = Window(**(PLAIN | changes))
    assert window.result_shape((4, 2, 8), (5, 4, 3)) == [6, 5, 2]
    assert window.permutation == (0, 1, 2)
    assert window.spatial == "0"


def test_regrouped():
    window = Window(**(PLAIN | {"feature_groups": 3, "reverse": True}))
    assert window.regrouped((5, 2, 12)) == [(5, 2, 3, 4), (5, 6, 4)]
