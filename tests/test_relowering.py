"""What an accelerator gets of a function that reads variables."""

import keras
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import tfmp
from tfmp._inspection import hlo, inspected_steps, relowering
from tfmp.conversion.sizes import Sizes


@pytest.fixture(scope="module")
def traced():
    """Keras' own training step, as it was traced and run for this CPU."""
    model = keras.Sequential(
        [keras.Input([8]), tfmp.layers.Dense(4, dtype="mixed_float8")]
    )
    model.compile(tfmp.optimizers.LossScaleOptimizer("adam"), "mse")
    x, y = tf.ones([16, 8]), tf.ones([16, 4])
    model.train_on_batch(x, y)
    function = tf.function(lambda x, y: model.train_step((x, y)))
    function(x, y)
    return inspected_steps.of_function(function, (x, y), Sizes(16))


def products(text):
    return hlo.Program(text).products()


def test_products_are_of_float8_operands(traced):
    assert traced.reads_variables
    here = products(traced.text("hlo", inspected_steps.CPU))
    there = products(traced.for_accelerators("hlo"))
    assert len(here) == len(there) == 2
    assert not any(product.is_float8 for product in here)
    assert all(product.is_float8 for product in there)
    assert [p.name for p in here] == [p.name for p in there]


def test_the_program_is_otherwise_the_same(traced):
    """The same arguments and results, the assigned variables included."""
    heads = [
        text.partition("entry_computation_layout=")[2].partition("\n")[0]
        for text in (
            traced.text("hlo", inspected_steps.CPU),
            traced.for_accelerators("hlo"),
        )
    ]
    assert heads[0] == heads[1] != ""


def test_nothing_is_left_behind(traced):
    names = set(context.context().list_function_names())
    traced.for_accelerators("hlo")
    left = set(context.context().list_function_names()) - names
    assert not [name for name in left if relowering.SUFFIX in str(name)]


def test_without_variables_nothing_is_copied():
    x = tf.TensorSpec([16, 8], tf.bfloat16)
    w = tf.TensorSpec([8, 4])
    step = inspected_steps.of_function(tfmp.ops.matmul, (x, w), Sizes(16))
    assert not step.reads_variables
    (product,) = products(step.for_accelerators("hlo"))
    assert product.is_float8
