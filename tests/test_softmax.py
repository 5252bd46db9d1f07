"""The softmax of attention against TensorFlow's, and what XLA keeps of it."""

import numpy as np
import pytest
import tensorflow as tf
from modes import each_mode

from tfmp.layers.softmax import attention_weights

DTYPES = (tf.float32, tf.bfloat16, tf.float16)
SHAPE = (2, 3, 4, 5)  # batch, heads, queries, keys


def normal(seed=0, shape=SHAPE):
    values = np.random.default_rng(seed).standard_normal(shape)
    return tf.constant(values, tf.float32)


def plain(logits, factor, mask):
    logits = tf.cast(logits, tf.float32) * factor
    if mask is not None:
        logits = tf.where(mask[:, tf.newaxis], logits, -np.inf)
    return tf.nn.softmax(logits)


@each_mode
@pytest.mark.parametrize("masked", [False, True], ids=["open", "masked"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_values_and_gradients(run, dtype, masked):
    mask = tf.constant(np.tri(4, 5, dtype=bool))[tf.newaxis]
    mask = mask if masked else None
    logits, upstream = tf.cast(normal(), dtype), tf.cast(normal(1), dtype)

    @run
    def both(logits, upstream):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            found = attention_weights(logits, 0.5, mask, 1)
            expected = tf.cast(plain(logits, 0.5, mask), dtype)
        pairs = [(found, expected)]
        pairs += [
            tuple(tape.gradient(y, logits, upstream) for y in (found, expected))
        ]
        return pairs

    step = {tf.float32: 2.0**-22, tf.bfloat16: 2.0**-7, tf.float16: 2.0**-10}
    for found, expected in both(logits, upstream):
        assert found.dtype == dtype
        np.testing.assert_allclose(
            *(tf.cast(t, tf.float32) for t in (found, expected)),
            rtol=2 * step[dtype],
            atol=step[dtype],
        )


def test_rows_without_a_key_are_even_and_have_no_gradient():
    mask = tf.zeros([2, 4, 5], tf.bool)
    logits = normal()
    with tf.GradientTape() as tape:
        tape.watch(logits)
        weights = attention_weights(logits, 1.0, mask, 1)
    np.testing.assert_allclose(weights, 0.2, rtol=1e-6)
    gradient = tape.gradient(weights, logits, normal(1))
    assert float(tf.reduce_max(tf.abs(gradient))) == 0.0


def test_several_axes_attend():
    logits = normal(shape=(2, 3, 2, 2, 2, 4))
    weights = attention_weights(logits, 1.0, None, 2)
    flat = tf.nn.softmax(tf.reshape(logits, [2, 3, 2, 2, 8]))
    np.testing.assert_allclose(
        tf.reshape(weights, flat.shape), flat, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_large_logits_do_not_overflow(scale):
    weights = attention_weights(normal() * scale, 1.0, None, 1)
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, rtol=1e-6)


def test_xla_keeps_it_in_sixteen_bits():
    """The weights, and what the products before get back."""

    def step(logits, upstream):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            weights = attention_weights(logits, 0.5, None, 1)
        return tape.gradient(weights, logits, upstream)

    function = tf.function(step, jit_compile=True, autograph=False)
    specs = [tf.TensorSpec([8, 8, 64, 64], tf.bfloat16)] * 2
    write = function.experimental_get_compiler_ir(*specs)
    given = write(stage="hlo", platform_name="GPU")
    fences = [line for line in given.splitlines() if " opt-barrier(" in line]
    assert len(fences) == 2
    assert all("bf16[8,8,64,64]" in line for line in fences)
