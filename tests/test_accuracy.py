"""What FP8 costs, on a small GPT: errors of one step, and a training's loss.

The large table is that of `benchmarks/accuracy.py`; this one is small enough to
run at each change.
"""

from __future__ import annotations

import functools
import importlib
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))
accuracy = importlib.import_module("accuracy")
choice_workloads = importlib.import_module("choice_workloads")
peers = importlib.import_module("peers")

LENGTH, BATCH, STEPS = 32, 32, 60
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
POWERS = peers.Arithmetic(powers=True)
HALF_BITS = peers.Arithmetic("float8_e5m2", "float8_e5m2", "float8_e5m2")
ROWS = {
    **{"float32": lambda model: None, "bfloat16": accuracy.in_bfloat16},
    **{"delayed": accuracy.by("delayed"), "current": accuracy.by("current")},
    "preset": accuracy.by(accuracy.PRESET),
    "emulated": accuracy.like(POWERS),
    "tensorwise": accuracy.like(peers.TENSORWISE),
    "rowwise": accuracy.like(peers.ROWWISE),
    "E5M2": accuracy.like(HALF_BITS),
}


@functools.cache
def text():
    split = choice_workloads.text(pathlib.Path(), LENGTH)
    train = [each[: BATCH * STEPS] for each in split.train]
    return train, [each[::64][: 8 * BATCH] for each in split.test]


def model_of(row):
    keras.utils.set_random_seed(0)
    model = choice_workloads.gpt(LENGTH, width=64, depth=2)
    ROWS[row](model)
    return model


def trained(row):
    """Returns a model trained for sixty steps."""
    model = model_of(row)
    model.compile(keras.optimizers.Adam(3e-3), LOSS, jit_compile=True)
    model.fit(*text()[0], BATCH, shuffle=False, verbose=0)
    return model


@functools.cache
def start():
    """The trainable weights of the float32 model."""
    weights = trained("float32").trainable_variables
    return [keras.ops.convert_to_numpy(w) for w in weights]


@functools.cache
def step(row):
    """Logits and gradients of one step from the trained weights."""
    model = model_of(row)
    for variable, value in zip(model.trainable_variables, start(), strict=True):
        variable.assign(value)
    x, y = (each[:BATCH] for each in text()[1])

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = LOSS(y, logits)
        sources = [v.value for v in model.trainable_variables]
        return logits, tape.gradient(loss, sources)

    if row == "delayed":
        run()  # from which the scales are
    logits, grads = run()
    every = [tf.reshape(tf.convert_to_tensor(g), [-1]) for g in grads]
    return [np.float32(logits), *(each.numpy() for each in every)]


def decibels(row):
    """Signal to noise of logits, and the mean of all gradients."""

    def of(exact, found):
        return 10 * np.log10(np.sum(exact**2) / np.sum((found - exact) ** 2))

    logits, *grads = map(of, step("float32"), step(row))
    return logits, np.mean(grads)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["current", "delayed"])
def test_errors_are_those_of_the_format(row):
    np.testing.assert_allclose(decibels(row), decibels("emulated"), atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["tensorwise", "rowwise"])
def test_logits_are_as_exact_as_in_other_libraries(peer):
    assert decibels("delayed")[0] > decibels(peer)[0] - 0.5


@pytest.mark.slow
def test_with_outputs_of_projections_in_bfloat16_there_is_less_error():
    gain = np.subtract(decibels("preset"), decibels("delayed"))
    assert min(gain) > 0.5


def test_one_bit_less_would_be_seen():
    logits, grads = np.subtract(decibels("emulated"), decibels("E5M2"))
    assert logits > 4 and grads > 2


@pytest.mark.slow
def test_a_training_ends_where_it_ends_in_bfloat16():
    wide, low = (
        trained(row).evaluate(*text()[1], BATCH, verbose=0)
        for row in ("bfloat16", "delayed")
    )
    assert low < 1.015 * wide
