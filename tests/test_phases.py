"""What changes in the course of a long training, and what must not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import optimizers

import tfmp
from tfmp.optimizers import LossScaleOptimizer

INPUTS, KERNEL, GRADS = range(3)
X = np.random.default_rng(0).normal(size=[32, 8]).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def dense(units=8, **options):
    return tfmp.layers.Dense(units, dtype="mixed_float8", **options)


def model_of(*layers, inner=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([8]), *layers])
    compile(model, inner)
    return model


def compile(model, inner=None):
    inner = inner or optimizers.SGD(0.05)
    optimizer = LossScaleOptimizer(inner, 1.0, dynamic=False)
    model.compile(optimizer, "mse", jit_compile=False)


def fit(model, epochs=1, x=X):
    return model.fit(x, Y, 8, epochs, verbose=0, shuffle=False).history["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("jit", [True, False])
def test_constraints_hold_and_the_scale_follows_them(jit):
    constraint = keras.constraints.MaxNorm(0.25)
    layer = dense(kernel_constraint=constraint, bias_constraint="non_neg")
    model = model_of(layer, dense(1))
    model.compile(model.optimizer, "mse", jit_compile=jit)
    fit(model, 2)
    kernel = layer.kernel.numpy()
    assert np.linalg.norm(kernel, axis=0).max() <= 0.2501
    assert (layer.bias.numpy() >= 0).all()
    model.fit(X[:8], Y[:8], 8, verbose=0)
    # The step has looked at the kernel as the constraint left it.
    newest = model.optimizer.amax_history.numpy()[0, 0, KERNEL]
    assert newest == np.abs(kernel).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"clipnorm": 0.1},
        {"clipvalue": 0.01, "weight_decay": 0.1},
        {"global_clipnorm": 0.1, "use_ema": True, "ema_momentum": 0.5},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_clipping_and_decay_leave_the_scales_alone(settings):
    seen, losses = [], []
    for each in ({}, settings):
        keras.utils.set_random_seed(0)
        model = model_of(dense(), dense(1), inner=optimizers.Adam(0.0, **each))
        fit(model)
        seen.append(model.optimizer.amax_history.numpy())
        model.optimizer.learning_rate = 0.02
        losses.append(fit(model, 4))
    np.testing.assert_array_equal(*seen)
    assert losses[1][-1] < losses[1][0]


def test_a_skipped_step_does_not_advance_the_schedule():
    rate = optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    model = model_of(dense(1), inner=optimizers.SGD(rate))
    bad = X.copy()
    bad[9, 0] = np.nan  # the second of four batches
    fit(model, x=bad)
    optimizer = model.optimizer
    assert (int(optimizer.iterations), int(optimizer.skipped_steps)) == (3, 1)
    rate = float(optimizer.inner_optimizer.learning_rate)
    assert rate == pytest.approx(0.1 * 0.5**3)


def test_frozen_and_unfrozen_between_epochs():
    layer, last = dense(), dense(1)
    model = model_of(layer, last)
    fit(model)
    before, window = layer.kernel.numpy(), layer.amax.numpy()
    layer.trainable = False
    model.compile(model.optimizer, "mse", jit_compile=False)
    fit(model, 5)
    np.testing.assert_array_equal(layer.kernel.numpy(), before)
    # What was observed of inputs and kernel is kept for later.
    np.testing.assert_array_equal(layer.amax.numpy()[:GRADS], window[:GRADS])
    layer.trainable = True
    model.compile(model.optimizer, "mse", jit_compile=False)
    losses = fit(model, 4)
    assert (layer.kernel.numpy() != before).any()
    assert losses[-1] < losses[0]
    assert layer.amax.numpy()[INPUTS] == pytest.approx(np.abs(X).max(), 2**-8)


def test_frozen_first_needs_another_optimizer_and_is_told_so():
    layer = dense()
    layer.trainable = False
    model = model_of(layer, dense(1))
    fit(model)
    layer.trainable = True
    model.compile(model.optimizer, "mse", jit_compile=False)
    with pytest.raises(ValueError, match=r"a new optimizer\. Received: unkn"):
        fit(model)
    compile(model)
    losses = fit(model, 4)
    assert losses[-1] < losses[0] and (layer.amax.numpy() > 0).all()


PHASES = [
    tfmp.recipes.DelayedScaling(amax_history_len=4),
    tfmp.recipes.CurrentScaling(fp8_format="E4M3"),
    tfmp.recipes.DelayedScaling(margin=1, amax_history_len=32),
]


@pytest.mark.slow
def test_phases_with_different_recipes():
    layer = dense()
    model = model_of(layer, dense(1), inner=optimizers.Adam(0.01))
    losses = fit(model)
    for number, recipe in enumerate([*PHASES, None, PHASES[0]]):
        policy = tfmp.Policy("mixed_float8", recipe)
        if recipe is None:
            policy = tfmp.Policy("mixed_bfloat16")
        tfmp.set_precision(model, {".*": policy})
        losses += fit(model)
        assert layer.recipe == recipe
        assert int(model.optimizer.iterations) == 4 * (number + 2)
        if recipe is not None:
            length = getattr(recipe, "amax_history_len", 1)
            assert model.optimizer.amax_history.shape[0] == length
            assert (layer.amax.numpy() > 0).all()
    assert losses[-1] < 0.7 * losses[0]
    momenta = model.optimizer.inner_optimizer.variables[2:]
    assert all(v.numpy().any() for v in momenta)


def test_a_phase_of_float16_scales_the_loss():
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    fit(model)
    tfmp.set_precision(model, {".*": "mixed_float16"})
    fit(model)
    assert model.optimizer.statistics["loss_scale"] > 1
    tfmp.convert(model)
    fit(model)
    assert (model.layers[0].amax.numpy() > 0).all()
