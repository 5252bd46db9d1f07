"""The amax windows of a model: held against NumPy, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp import recipes
from tfmp._core import scaling
from tfmp.layers.float8_state import Float8State, states_of
from tfmp.optimizers import LossScaleOptimizer
from tfmp.optimizers.amax_history import AmaxHistory
from tfmp.recipes import CurrentScaling, DelayedScaling

LARGEST = np.finfo("float32").max

# Every kind of recipe, and the steps that its window covers.
RECIPES = {
    DelayedScaling(amax_history_len=1): 1,
    DelayedScaling(amax_history_len=3): 3,
    DelayedScaling(amax_history_len=16): 16,
    DelayedScaling(amax_history_len=9, amax_compute_algo="most_recent"): 1,
    DelayedScaling(amax_history_len=5, current=("inputs", "grads")): 5,
    DelayedScaling(amax_history_len=4, fp8_format="E4M3"): 4,
    CurrentScaling(): 1,
}
WINDOWS = list(RECIPES.values())


def make_model(choice: Sequence[recipes.Recipe] = tuple(RECIPES)) -> Any:
    """Returns a model with one layer a recipe, and one of Keras' own."""
    keras.utils.set_random_seed(0)
    policies = [tfmp.Policy("mixed_float8", recipe) for recipe in choice]
    return keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(4),
            *[tfmp.layers.Dense(4, dtype=policy) for policy in policies],
        ]
    )


def states(model: keras.Model) -> list[Float8State]:
    return states_of(model.trainable_variables)


def assumed(states: Sequence[Float8State]) -> np.ndarray:
    return np.stack([state.amax.numpy() for state in states])


def see(states: Sequence[Float8State], observed: np.ndarray) -> None:
    """Does what a backward pass does."""
    for state, row in zip(states, observed, strict=True):
        state.begin_pass().take_in(tf.constant(row))


def history_of(model: keras.Model) -> AmaxHistory:
    """Returns the history of a model, with an array of its own."""
    made = AmaxHistory(model.trainable_variables)
    made.history = keras.Variable(np.zeros(made.shape, "float32"))
    return made


class Simulation:
    """What the optimizer should do, in NumPy, one tensor at a time."""

    def __init__(self, amax: np.ndarray, optimizer: LossScaleOptimizer):
        self.amax = amax.copy()
        self.windows = [[[] for _ in row] for row in amax]
        self.scale = np.float32(optimizer.initial_scale)
        self.counter = 0
        self.optimizer = optimizer

    def step(self, observed: np.ndarray, finite: bool) -> None:
        before, self.scale = self.scale, self.next_scale(finite)
        for row, role in np.ndindex(observed.shape):
            window = self.windows[row][role]
            if finite:
                window.insert(0, observed[row, role])
            if role == 2:
                factor = self.scale / before
                window[:] = [seen * factor for seen in window]
                self.amax[row, role] *= factor
            largest = max(window[: WINDOWS[row]], default=0)
            self.amax[row, role] = largest or self.amax[row, role]

    def next_scale(self, finite: bool) -> np.float32:
        settings, factor = self.optimizer.rule, 1.0
        self.counter = self.counter + 1 if finite else 0
        if not finite:
            factor = settings.factors[1]
        elif self.counter == settings.growth_steps:
            factor, self.counter = settings.factors[0], 0
        bounds = np.float32(settings.bounds)
        moved = np.clip(self.scale * np.float32(factor), *bounds)
        return moved if settings.dynamic else self.scale


def draw(rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Returns observations, some of them zero, and whether all are finite."""
    observed = rng.lognormal(0, 4, [len(WINDOWS), 3]).astype("float32")
    observed[rng.random(observed.shape) < 0.3] = 0
    observed[rng.random(len(WINDOWS)) < 0.3] = 0
    return observed, rng.random() < 0.85


@pytest.mark.slow_but("settings1")
@pytest.mark.parametrize(
    "settings",
    [
        {"growth_steps": 3},
        {"growth_steps": 2, "factors": (1.7, 0.3)},
        {"growth_steps": 1, "bounds": (2.0**14, 2.0**17)},
        {"growth_steps": 1, "dynamic": False},
    ],
)
def test_sixty_steps_as_in_numpy(settings):
    model = make_model()
    optimizer = LossScaleOptimizer("sgd", **settings)
    optimizer.build(model.trainable_variables)
    found, rng = states(model), np.random.default_rng(1)
    simulation = Simulation(assumed(found), optimizer)

    @tf.function
    def apply(observed, other):
        for state, row in zip(found, tf.unstack(observed), strict=True):
            state.begin_pass().take_in(row)
        gradients = [tf.fill(v.shape, other) for v in model.trainable_variables]
        optimizer.apply(gradients, model.trainable_variables)

    for step in range(60):
        observed, finite = draw(rng)
        given, other = observed.copy(), 0.0
        if not finite and rng.random() < 0.5:
            given[rng.integers(len(WINDOWS)), rng.integers(3)] = np.inf
        elif not finite:
            other = rng.choice([np.inf, -np.inf, np.nan])
        apply(tf.constant(given), tf.constant(other, tf.float32))
        simulation.step(observed, finite)
        np.testing.assert_array_equal(
            assumed(found), simulation.amax, str(step)
        )
        assert float(optimizer.dynamic_scale) == simulation.scale
        assert np.isfinite(optimizer.amax_history.numpy()).all()
    assert int(optimizer.skipped_steps) > 0


def test_the_simulation_can_fail():
    settings = LossScaleOptimizer("sgd", growth_steps=1)
    simulation = Simulation(np.ones([len(WINDOWS), 3], "float32"), settings)
    for size in (8, 2, 0):
        simulation.step(np.full([len(WINDOWS), 3], size, "float32"), True)
    # A window of one step has forgotten both, one of three none.
    assert simulation.amax[:3].tolist() == [[2, 2, 8], [8, 8, 64], [8, 8, 64]]


@pytest.mark.parametrize("keep", [False, True])
def test_start_puts_priors_where_nothing_was_seen(keep):
    model = make_model()
    found = states(model)
    found[0].assume([3.0, 5.0, 7.0])
    found[1].assume([3.0, 5.0, np.inf])
    before = assumed(found)
    AmaxHistory(model.trainable_variables).start(4.0, keep)
    after = assumed(found)
    for row, recipe in enumerate(RECIPES):
        prior = 4 * scaling.PRIOR_AMAX["grads", recipe.grads]
        assert after[row, 2] == (7 if keep and row == 0 else prior)
    np.testing.assert_array_equal(after[:, :2], before[:, :2])


def test_start_drops_what_no_optimizer_has_taken():
    model = make_model()
    found = states(model)
    see(found, np.full([len(found), 3], np.inf, "float32"))
    see(found, np.full([len(found), 3], 5.0, "float32"))
    history = AmaxHistory(model.trainable_variables)
    assert np.isinf(history.observed()).all()
    history.start(1.0, keep=True)
    assert np.isinf(history.observed()).all()
    history.start(1.0, keep=False)
    np.testing.assert_array_equal(history.observed(), 0.0)


def test_layers_in_fp8_have_rows():
    model = make_model()
    history = AmaxHistory(model.trainable_variables)
    assert history.states == [layer.float8 for layer in model.layers[1:]]
    assert history.shape == (16, len(RECIPES), 3)
    assert AmaxHistory(model.layers[0].trainable_variables).shape == (0, 0, 3)
    assert AmaxHistory([tf.Variable(1.0)]).shape == (0, 0, 3)
    bias = model.layers[2].bias
    assert AmaxHistory([bias]).states == [model.layers[2].float8]


def test_it_knows_of_whom_it_is():
    model = make_model()
    history = AmaxHistory(model.trainable_variables)
    assert history.is_of(model.trainable_variables)
    assert not history.is_of(model.trainable_variables[:4])
    model.layers[1].float8.recipe = DelayedScaling(amax_history_len=2)
    assert not history.is_of(model.trainable_variables)


def test_observations_are_ordered_by_row():
    history = history_of(make_model())
    seen = np.arange(3 * len(RECIPES), dtype="float32").reshape(-1, 3)
    see(history.states, seen)
    see(history.states, seen[::-1])
    np.testing.assert_array_equal(
        history.observed(), np.maximum(seen, seen[::-1])
    )
    assert history_of(make_model(())).observed().shape == (0, 3)


def test_a_window_without_observation_leaves_amax():
    history = history_of(make_model())
    before = assumed(history.states)
    for _ in range(20):
        history.renew(tf.zeros([len(RECIPES), 3]))
    np.testing.assert_array_equal(assumed(history.states), before)
    history.renew(tf.ones([len(RECIPES), 3]))
    for _ in range(2):
        history.renew(tf.zeros([len(RECIPES), 3]))
    assert (assumed(history.states) == 1).all()


def test_a_step_that_does_not_count_is_dropped():
    history = history_of(make_model())
    history.renew(tf.ones([len(RECIPES), 3]))
    see(history.states, np.full([len(RECIPES), 3], 50, "float32"))
    history.renew(history.observed(), good=tf.constant(False), factor=0.5)
    assert not history.observed().numpy().any()
    np.testing.assert_array_equal(
        assumed(history.states), [[1, 1, 0.5]] * len(RECIPES)
    )
    assert history.history.numpy().max() == 1


@pytest.mark.parametrize("good", [True, False])
def test_a_growing_loss_scale_never_brings_infinity(good):
    history = history_of(make_model())
    huge = tf.fill([len(RECIPES), 3], LARGEST)
    history.renew(huge)
    history.renew(huge, good=tf.constant(good), factor=2.0)
    assert (assumed(history.states) == LARGEST).all()
    assert np.isfinite(history.history.numpy()).all()


def test_an_assumed_gradient_follows_the_loss_scale():
    history = history_of(make_model())
    history.start(1.0, keep=False)
    before, nothing = assumed(history.states), tf.zeros([len(RECIPES), 3])
    history.renew(nothing, good=tf.constant(False), factor=0.5)
    after = assumed(history.states)
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    np.testing.assert_array_equal(after[:, 2], before[:, 2] / 2)
    history.renew(nothing, good=tf.constant(False), factor=LARGEST)
    assert np.isfinite(assumed(history.states)).all()


@pytest.mark.slow
def test_the_history_of_a_real_fit():
    model = make_model()
    rng = np.random.default_rng(0)
    x = tf.cast(tf.cast(rng.normal(size=[24, 4]), tf.bfloat16), tf.float32)
    model.layers[0].kernel.assign(np.eye(4))
    model.layers[0].trainable = False
    optimizer = LossScaleOptimizer("sgd", initial_scale=1.0, dynamic=False)
    model.compile(optimizer, "mse", jit_compile=False)
    kernels = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: kernels.append(
            np.abs(model.layers[1].kernel.numpy()).max()
        )
    )
    y = tf.zeros([24, 4])
    model.fit(x, y, 4, verbose=0, shuffle=False, callbacks=[keep])
    history = optimizer.amax_history.numpy()
    batches = np.abs(x.numpy().reshape(6, -1)).max(axis=1)
    np.testing.assert_array_equal(history[:6, 0, 0], batches[::-1])
    np.testing.assert_array_equal(history[:6, 0, 1], kernels[::-1])
    assert (history[:6] > 0).all() and not history[6:].any()
    for row, length in enumerate(WINDOWS):
        np.testing.assert_array_equal(
            assumed(states(model))[row], history[:length, row].max(axis=0)
        )
