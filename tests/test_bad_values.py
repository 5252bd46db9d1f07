"""Faults planted in a real training; all of them: benchmarks/inject_faults.py.

The benchmark's own checks are tested too: each has to find what it is for.
"""

from __future__ import annotations

import extreme_data
import inject_faults
import numpy as np
import pytest
import tensorflow as tf

import tfmp


@pytest.fixture(scope="module", params=["delayed", "current"])
def trial(request):
    return inject_faults.Trial(request.param, jit=False, depth=2)


def sites(trial, *words):
    found = {
        name: site
        for name, site in trial.sites().items()
        if any(word in name for word in words)
    }
    assert found
    return found


@pytest.mark.slow_but("-nan]", "delayed-inf")
@pytest.mark.parametrize("kind", inject_faults.KINDS)
def test_training_goes_on_after_a_fault(trial, kind):
    value, outcomes = inject_faults.KINDS[kind], set()
    for name, site in trial.sites().items():
        moment = inject_faults.TIMES[len(name) % 3]
        outcome, complaints = trial.run(site, value, moment)
        assert not complaints, name
        outcomes.add(outcome)
    # Labels, weights and gradients are never saturated.
    assert ("applied" in outcomes) or kind in ("nan", "inf", "-inf")
    assert ("skipped" in outcomes) or kind == "tiny"


def test_what_is_not_finite_is_skipped_wherever_it_is(trial):
    words = ("inputs", "labels", "activation", "gradient", "weight")
    for name, site in sites(trial, *words).items():
        for kind in ("nan", "inf", "-inf"):
            outcome, _ = trial.run(site, inject_faults.KINDS[kind], 1)
            assert outcome == "skipped", (name, kind)


def test_finite_gradients_of_infinite_norm_are_skipped(trial):
    # Keras' clipping would make NaN of them, Adam an infinite average.
    for site in sites(trial, "tap_2/gradient").values():
        assert trial.run(site, 1e30, 1)[0] == "skipped"


def test_the_checks_find_what_they_are_for(trial):
    before, clean = trial.clean[1], trial.clean[2]
    broken = {path: value.copy() for path, value in before.items()}
    for value in broken.values():
        value += np.ones_like(value)
    assert len(trial.changed(before, broken)) > 10
    assert not trial.changed(before, before)
    trial.restore(broken)
    assert len(trial.astray(clean)) == len(trial.weights)
    if trial.model.layers[1].recipe.is_delayed("inputs"):
        state = trial.model.layers[1].float8
        state.assume(state.amax * 100)
        assert len(trial.frozen(clean)) >= 1
    trial.restore(before)
    assert not trial.frozen(before) and not trial.astray(before)


def test_a_tap_plants_what_it_is_told():
    x = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    for forward, backward, due, slope in [
        (0.0, 0.0, [[1, 2], [3, 4]], [[1, 1], [1, 1]]),
        (np.inf, 0.0, [[np.inf, 2], [3, 4]], [[1, 1], [1, 1]]),
        (0.0, 2.0**-30, [[1, 2], [3, 4]], [[2.0**-30] * 2] * 2),
    ]:
        tap = inject_faults.Tap()
        tap.build(x.shape)
        for variable, value in zip(
            tap.weights, (forward, backward), strict=True
        ):
            variable.assign(value)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tap(x)
        np.testing.assert_array_equal(y, due)
        np.testing.assert_array_equal(tape.gradient(y, x), slope)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "jit"),
    [("dense", True), ("dense", False), ("conv", True), ("attention", False)],
)
def test_nan_is_not_hidden_in_inference(layer, jit):
    made = {
        "dense": tfmp.layers.Dense(16, dtype="mixed_float8"),
        "conv": tfmp.layers.Conv1D(16, 3, dtype="mixed_float8"),
        "attention": tfmp.layers.MultiHeadAttention(2, 8, dtype="mixed_float8"),
    }[layer]
    x = np.random.default_rng(0).normal(size=[2, 6, 16]).astype("float32")
    made(*[x] * (2 if layer == "attention" else 1))
    x[0, 2, 3] = np.nan

    @tf.function(jit_compile=jit, autograph=False)
    def run(x):
        return made(*[x] * (2 if layer == "attention" else 1), training=False)

    y = run(x).numpy().astype("float32")
    assert np.isnan(y[0, 2]).all() and np.isfinite(y[1]).all()


@pytest.mark.slow_but("tenfold", "collapses")
@pytest.mark.parametrize(
    ("pattern", "recipe", "steps"),
    [
        ("1e-6 and 1e6 in turn", "current", 0),
        ("tenfold a step, then steady", "delayed, margin 4", 1),  # the first
        ("collapses to zero for 20 steps", "delayed", 0),
        ("1e30 once, at step 20", "delayed", 17),  # itself, and the window
        ("1e30 once, at step 20", "delayed, most recent", 2),
    ],
)
def test_extreme_data_cost_what_the_recipe_says(pattern, recipe, steps):
    found = extreme_data.measure(extreme_data.RECIPES[recipe], pattern)
    assert found["steps below 20 dB"] == steps
    assert found["skipped"] == 0 and found["dB, median"] > 28
