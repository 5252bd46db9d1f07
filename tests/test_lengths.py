"""tfmp._core.lengths: few programs for many lengths, and the same numbers."""

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from modes import MODES

import tfmp
from tfmp import ops, recipes
from tfmp._core import contractions, equations, lengths
from tfmp._core.lengths import LEAST, STEPS, at_least, rounded

EQUATIONS = {
    "matrices": ("ab,bc->ac", (37, 16), (16, 24)),
    "leading axes": ("...a,ab->...b", (3, 11, 16), (16, 24)),
    "heads": ("abc,cde->abde", (3, 11, 16), (16, 2, 12)),
    "from heads": ("abcd,cde->abe", (3, 11, 2, 8), (2, 8, 24)),
    "one axis of two": ("abc,bcd->abd", (9, 2, 8), (2, 8, 24)),
    "in a batch": ("bij,bjk->bik", (3, 5, 16), (3, 16, 24)),
}


def operands(shapes, dtype):
    random = np.random.default_rng(0)
    x, w = (random.normal(size=shape) for shape in shapes)
    return tf.cast(x, dtype), tf.constant(w, tf.float32)


@hypothesis.given(st.integers(1, 2**30), st.sampled_from([16, 32, 64, 128]))
def test_rounded(rows, least):
    found = rounded(rows, least)
    assert found >= max(rows, least) and found % LEAST == 0
    assert rounded(found, least) == found
    assert found - rows < max(least, LEAST, rows / STEPS)


@hypothesis.given(st.integers(1, 2**26))
def test_at_least(size):
    assert at_least(size) in (16, 32, 64, 128)
    assert at_least(size) >= at_least(size + 1)


@pytest.mark.parametrize("rows", [1, 15, 16, 129, 1025, 4096])
def test_a_graph_rounds_as_python_does(rows):
    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def padded(x):
        return lengths._padded(x, 16)[1]

    assert padded(tf.ones([rows, 2])).shape[0] == rounded(rows, 16)


def test_what_can_be_flattened():
    found = {
        name: lengths.flattened(equations.parse(e, x, w).contraction)
        for name, (e, x, w) in EQUATIONS.items()
    }
    assert [n for n, flat in found.items() if flat is None] == ["in a batch"]
    assert found["from heads"] == equations.Contraction("acd", "cde", "ae")
    assert lengths.flattened("no contraction") is None


@pytest.mark.slow_but("bfloat16-delayed-graph")
@pytest.mark.parametrize("mode", ["eager", "graph"])  # XLA's is exact
@pytest.mark.parametrize(
    ("dtype", "recipe"),
    [("float32", "current"), ("bfloat16", "delayed"), ("float16", "delayed")],
)
@pytest.mark.parametrize("name", EQUATIONS)
def test_numbers_are_those_of_the_exact_program(name, dtype, recipe, mode):
    equation, *shapes = EQUATIONS[name]
    x, w = operands(shapes, dtype)
    amax = tf.constant([2.0, 3.0, 0.5])
    contraction = equations.parse(equation, *shapes).contraction

    def exact(x, w, amax):
        return contractions.contract(
            contraction, x, w, recipes.get(recipe), amax, True
        )

    def ours(x, w, amax):
        return ops.einsum(equation, x, w, amax=amax, recipe=recipe)

    def step(product):
        def both(x, w, amax):
            return oracles.gradients(product, (x, w, amax))

        return MODES[mode](both)(x, w, amax)

    for want, got in zip(step(exact), step(ours), strict=True):
        assert want.shape == got.shape and want.dtype == got.dtype
        np.testing.assert_array_equal(
            np.asarray(want, "float64"), np.asarray(got, "float64")
        )


def test_no_rows_at_all():
    x, w = tf.zeros([0, 16]), tf.ones([16, 4])
    assert ops.matmul(x, w).shape == (0, 4)


def test_shapes_are_as_known_as_before():
    @tf.function(input_signature=[tf.TensorSpec([None, 7, None, 8])])
    def product(x):
        return ops.matmul(x, tf.ones([8, 3]))

    found = product.get_concrete_function().output_shapes
    assert found.as_list() == [None, 7, None, 3]


def test_a_compiled_function_is_left_as_it_was():
    seen = []

    def ask(x):
        seen.append(lengths.is_compiled())
        return x

    x = tf.ones([3])
    ask(x)
    tf.function(ask)(x)
    tf.function(ask, jit_compile=True)(x)
    tf.function(tf.function(ask), jit_compile=True)(x)
    assert seen == [False, False, True, True]

    step = tf.function(lambda x: ops.matmul(x, tf.ones([8, 3])))
    plain = step.get_concrete_function(tf.TensorSpec([5, 2, 8])).graph
    step = tf.function(
        lambda x: ops.matmul(x, tf.ones([8, 3])), jit_compile=True
    )
    compiled = step.get_concrete_function(tf.TensorSpec([5, 2, 8])).graph
    kinds = [
        {op.type for op in each.get_operations()} for each in (plain, compiled)
    ]
    assert ["SplitV" in each for each in kinds] == [True, False]


@pytest.mark.parametrize("eagerly", [False, True])
def test_new_lengths_need_no_new_programs(eagerly):
    contractions._compiled.cache_clear()
    inputs = keras.Input([None, 32])
    x = tfmp.layers.Dense(32, dtype="mixed_float8")(inputs)
    x = tfmp.layers.EinsumDense(
        "abc,cd->abd", (None, 32), dtype="mixed_float8"
    )(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=eagerly)

    def train(length):
        batch = np.ones([4, length, 32], "float32")
        model.train_on_batch(batch, batch)
        return contractions._compiled.cache_info().currsize

    first = train(5)
    assert {train(length) for length in (6, 7, 20, 31)} == {first}
