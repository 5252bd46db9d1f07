"""Gradients that go with their graph, and are there as long as it is."""

from __future__ import annotations

import gc
import weakref

import pytest
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

from tfmp._core import custom_gradients


@custom_gradients.custom_gradient
def doubled(x):
    return x, lambda upstream: 2 * upstream


@tf.custom_gradient
def tripled(x):
    return x, lambda upstream: 3 * upstream


def gradient_of(function, jit_compile=False):
    @tf.function(jit_compile=jit_compile)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)

    return run


def within_a_function(x):
    return tf.function(doubled)(x)


def within_a_loop(x):
    return tf.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, doubled(y)), [0, x]
    )[1]


def within_a_branch(x):
    return tf.cond(x[0] > 0, lambda: doubled(x), lambda: x)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (doubled, 2),
        (within_a_function, 2),
        (within_a_loop, 8),
        (within_a_branch, 2),
        (lambda x: doubled(tripled(x)), 6),
        (tf.recompute_grad(doubled), 2),
    ],
)
def test_gradients(function, expected, jit_compile):
    run = gradient_of(function, jit_compile)
    x = tf.ones([2])
    assert run(x).numpy().tolist() == [expected] * 2
    custom_gradients.release()
    again = gradient_of(function, jit_compile)
    assert again(x).numpy().tolist() == [expected] * 2
    assert gradient_of(lambda x: run(x) * x)(x).shape == [2]


def test_eagerly():
    x = tf.ones([2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = doubled(x)
    assert tape.gradient(y, x).numpy().tolist() == [2, 2]


def test_a_function_kept_by_the_user_is_derived_again_later():
    inner = tf.function(lambda x: doubled(tripled(x)))
    x = tf.ones([2])
    inner(x)
    custom_gradients.release()
    gc.collect()
    assert gradient_of(inner)(x).numpy().tolist() == [6, 6]


@pytest.mark.parametrize("function", [doubled, tripled])
def test_the_graph_goes_when_its_function_does(function):
    run = gradient_of(function)
    concrete = run.get_concrete_function(tf.TensorSpec([2]))
    graph = weakref.ref(concrete.graph)
    custom_gradients.release()
    del run, concrete
    gc.collect()
    assert graph() is None


def test_of_a_graph_that_is_gone():
    run = gradient_of(doubled)
    operations = run.get_concrete_function(tf.TensorSpec([2])).graph
    names = [
        op.get_attr(custom_gradients.ATTRIBUTE).decode()
        for op in operations.get_operations()
        if op.type == "IdentityN"
    ]
    del run, operations
    gc.collect()
    with pytest.raises(LookupError, match="The graph is gone"):
        gradient_registry.lookup(names[0])(None)
