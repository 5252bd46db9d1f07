"""Axes that broadcast, of lengths that a graph does not know: as TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
from modes import MODES

from tfmp import ops
from tfmp._core import equations

DTYPES = ("float32", "bfloat16", "float16")
# Shapes that a graph knows, and the lengths of the first axes when it runs.
KNOWN = [[None, 4, 8], [3, 8, 2]]
NEITHER = [[None, 4, 8], [None, 8, 2]]
TWO_AXES = [[None, None, 4, 8], [2, None, 8, 2]]
FEWER_AXES = [[2, None, 4, 8], [None, 8, 2]]
MIDDLE = [[None, 4, 8], [1, 8, 2]]
CASES = [
    ("float32", KNOWN, [([1], [3]), ([3], [3])]),
    ("bfloat16", NEITHER, [([1], [3]), ([3], [1]), ([3], [3]), ([1], [1])]),
    ("float16", TWO_AXES, [([2, 1], [2, 5]), ([1, 5], [2, 1])]),
    ("float32", FEWER_AXES, [([2, 1], [5]), ([2, 5], [1])]),
    ("float32", MIDDLE, [([3], [1])]),
]


def integers(seed, shape, dtype):
    """Small whole numbers: FP8 and sums of their products are exact."""
    values = np.random.default_rng(seed).integers(-4, 5, shape)
    return tf.cast(values, dtype)


def gradients(mode, function, dtype, shapes):
    """Returns a program of unknown lengths: a product and its gradients."""
    specs = [tf.TensorSpec(shape, dtype) for shape in shapes]

    def run(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            y = function(a, b)
        return y, *tape.gradient(y, [a, b])

    return MODES[mode](run).get_concrete_function(*specs)


@pytest.mark.slow_but("graph")
@pytest.mark.parametrize(
    ("mode", "dtype", "shapes", "lengths"),
    [("graph", *case) for case in CASES] + [("xla", *CASES[1])],
)
def test_matmul_broadcasts_as_tensorflows(mode, dtype, shapes, lengths):
    ours = gradients(mode, ops.matmul, dtype, shapes)
    theirs = gradients("graph", tf.matmul, dtype, shapes)
    for pair in lengths:
        a, b = (
            integers(i, [*first, *shape[-2:]], dtype)
            for i, (first, shape) in enumerate(zip(pair, shapes, strict=True))
        )
        for actual, expected in zip(ours(a, b), theirs(a, b), strict=True):
            assert actual.shape == expected.shape
            np.testing.assert_array_equal(actual, expected)


def test_the_result_has_the_lengths_that_are_known():
    run = gradients("graph", ops.matmul, "float32", KNOWN)
    shapes = [tensor.shape.as_list() for tensor in run.outputs]
    assert shapes == [[3, 4, 2], [None, 4, 8], [3, 8, 2]]


def test_einsum_broadcasts_its_ellipsis():
    equation = "a...b,b...c->a...c"
    shapes = [4, None, 8], [8, None, 2]
    runs = [
        gradients(
            "graph", lambda a, b, e=e: e(equation, a, b), "float32", shapes
        )
        for e in (ops.einsum, tf.einsum)
    ]
    a, b = integers(0, [4, 3, 8], "float32"), integers(1, [8, 1, 2], "float32")
    for actual, expected in zip(*(run(a, b) for run in runs), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("shapes", [KNOWN, NEITHER])
def test_other_lengths_are_an_error_that_names_the_arguments(shapes):
    run = gradients("graph", ops.matmul, "float32", shapes)
    message = "`a` and `b` must have equal lengths, or 1"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run(tf.ones([2, 4, 8]), tf.ones([3, 8, 2]))


def test_nothing_is_added_where_lengths_are_known():
    run = gradients("graph", ops.matmul, "float32", [[3, 4, 8], [3, 8, 2]])
    kinds = {op.type for op in run.graph.get_operations()}
    assert not kinds & {"BroadcastTo", "Assert", "EnsureShape"}


def test_axes_that_may_be_repeated():
    parsed = equations.parse(
        "...ij,...jk->...ik", (None, 1, 5, 6, 7), (None, 5, 7, 2)
    )
    # Aligned at the right: (None, 1, 5) and (None, 5).
    assert parsed.repeat == ()
    parsed = equations.parse("...ij,...jk->...ik", (9, None, 6, 7), (4, 7, 2))
    assert parsed.repeat == ((1, 0),)
