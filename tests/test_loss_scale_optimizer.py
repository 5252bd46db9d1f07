"""LossScaleOptimizer on real models: in fit, in custom loops, on disk."""

from __future__ import annotations

import collections
import copy
import inspect
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import modes
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

import tfmp
from tfmp.layers.float8_state import Float8State, states_of
from tfmp.optimizers import LossScaleOptimizer

INPUTS, KERNEL, GRADS = range(3)
FIT = {
    "graph": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "steps": {"jit_compile": False, "steps_per_execution": 4},
}
CLASSES = {
    name: value
    for name, value in vars(optimizers).items()
    if isinstance(value, type)
    and issubclass(value, optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer")
}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Returns four batches of eight that bfloat16 holds exactly."""
    x = np.random.default_rng(0).integers(-16, 17, [32, 8]) / 8
    return x.astype("float32"), x.sum(axis=1, keepdims=True).astype("float32")


def make_model(policy: Any = "mixed_float8", layer: type | None = None) -> Any:
    """Returns two layers, each time with the same weights."""
    keras.utils.set_random_seed(0)
    layer = layer or tfmp.layers.Dense
    layers = [layer(8, "relu", dtype=policy), layer(1, dtype=policy)]
    return keras.Sequential([keras.Input([8]), *layers])


def train(
    model: keras.Model, optimizer: Any, mode: str = "graph", epochs: int = 2
) -> list[float]:
    """Trains for eight steps; returns the losses of the epochs.

    A graph builds the optimizer before its first forward pass, and so does
    this in eager mode.
    """
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse", **FIT[mode])
    fitted = model.fit(*data(), 8, epochs, verbose=0, shuffle=False)
    return fitted.history["loss"]


def real(model: keras.Model) -> list[keras.Variable]:
    return model.trainable_variables


def states(model: keras.Model) -> list[Float8State]:
    return states_of(model.trainable_variables)


def amax(model: keras.Model) -> list[np.ndarray]:
    """What the layers' next passes assume."""
    return [state.amax.numpy() for state in states(model)]


def see(layers: keras.Layer, value: Any = 1.0) -> None:
    """Does what the backward pass of a step does."""
    for state in states(layers):
        state.begin_pass().take_in(tf.zeros([3]) + value)


def values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [v.numpy() for v in variables]


def state(model: keras.Model) -> list[np.ndarray]:
    return values([*model.variables, *model.optimizer.variables])


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    """Whether two lists of arrays are equal bit for bit."""
    return [x.tobytes() for x in a] == [x.tobytes() for x in b]


def scripted(optimizer: Any) -> tuple[keras.Variable, Callable[[float], None]]:
    """Returns a variable, and a function that takes a step of a gradient."""
    weight = keras.Variable([1.0, 2.0])
    optimizer.build([weight])
    return weight, lambda g: optimizer.apply([tf.fill([2], g)], [weight])


def test_same_can_fail():
    one = [np.zeros(2), np.ones(1)]
    assert same(one, copy.deepcopy(one))
    assert not same(one, [np.array([0.0, -0.0]), np.ones(1)])
    assert not same(one, one[:1])


# The loss scale.


def test_it_grows_after_exactly_growth_steps():
    optimizer = LossScaleOptimizer("sgd", initial_scale=8.0, growth_steps=3)
    _, step = scripted(optimizer)
    seen = []
    for gradient in [1, 1, np.inf, 1, 1, 1, 1, 1, 1, 1]:
        step(float(gradient))
        counter, scale = optimizer.step_counter, optimizer.dynamic_scale
        seen.append((int(counter), float(scale)))
    assert [counter for counter, _ in seen] == [1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert [scale for _, scale in seen] == [8, 8, 4, 4, 4, 8, 8, 8, 16, 16]
    assert int(optimizer.skipped_steps) == 1
    assert int(optimizer.iterations) == 9


@pytest.mark.parametrize(
    "settings",
    [
        {"bounds": (3.0, 100.0)},
        {"bounds": (2.0**-24, 2.0**40), "factors": (2.0**4, 2.0**-4)},
        {"bounds": (0.3, 7e4), "factors": [3.3, 0.45]},
        {"bounds": [16.0, 16.0]},
    ],
)
def test_bounds(settings):
    optimizer = LossScaleOptimizer(
        "sgd", initial_scale=16.0, growth_steps=1, **settings
    )
    _, step = scripted(optimizer)
    low, high = np.float32(settings["bounds"])
    for gradient, bound in ((1.0, high), (np.nan, low)):
        for _ in range(18):
            step(gradient)
            scale = optimizer.dynamic_scale.numpy()
            assert low <= scale <= high
        assert scale == bound


def test_a_static_scale_stays():
    optimizer = LossScaleOptimizer(
        "sgd", initial_scale=8.0, growth_steps=1, dynamic=False
    )
    weight, step = scripted(optimizer)
    for gradient in (8.0, np.inf, 8.0):
        step(gradient)
        assert float(optimizer.dynamic_scale) == 8
    assert int(optimizer.skipped_steps) == 1
    np.testing.assert_allclose(weight.numpy(), [0.98, 1.98])


def test_a_static_scale_ignores_that_of_a_checkpoint():
    models = []
    for restored in (1.0, 2.0**15):
        model = make_model()
        optimizer = LossScaleOptimizer("sgd", 1.0, dynamic=False)
        optimizer.build(model.trainable_variables)
        optimizer.dynamic_scale.assign(restored)
        train(model, optimizer, "eager")
        models.append(model)
    assert same(*[values(model.variables) for model in models])


def test_a_static_scale_of_one_trains_as_the_inner_optimizer_alone():
    models = [make_model("float32"), make_model("float32")]
    train(models[0], optimizers.Adam(0.01))
    static = LossScaleOptimizer(optimizers.Adam(0.01), 1.0, dynamic=False)
    train(models[1], static)
    assert same(*[values(model.variables) for model in models])


@pytest.mark.slow_but("graph]", "eager]")
@pytest.mark.filterwarnings("ignore:LossScale.* skipped:RuntimeWarning")
@pytest.mark.parametrize(
    ("policy", "layer", "scale", "mode"),
    [
        ("float32", None, 2.0**15, "graph"),
        ("float32", None, 2.0**15, "jit"),
        # Overflows at first: the skipped steps are the same as well.
        ("mixed_float16", None, 2.0**24, "graph"),
        ("mixed_float16", None, 2.0**24, "eager"),
        # Keras' own FP8 state is not divided by the loss scale.
        ("float8_from_mixed_bfloat16", keras.layers.Dense, 8.0, "graph"),
    ],
)
def test_it_trains_other_models_as_keras_does(policy, layer, scale, mode):
    theirs, ours = make_model(policy, layer), make_model(policy, layer)
    inner = optimizers.Adam(0.01), optimizers.Adam(0.01)
    kept = optimizers.LossScaleOptimizer(inner[0], scale, 3)
    losses = train(theirs, kept, mode)
    own = LossScaleOptimizer(inner[1], scale, 3)
    np.testing.assert_array_equal(losses, train(ours, own, mode))
    assert same(values(theirs.variables), values(ours.variables))
    assert same(values(inner[0].variables), values(inner[1].variables))
    assert float(kept.dynamic_scale) == float(own.dynamic_scale) != scale
    assert int(kept.step_counter) == int(own.step_counter)
    assert (int(own.skipped_steps) > 0) == (policy == "mixed_float16")
    assert own.amax_history.shape == (0, 0, 3)


# A step that must be skipped.


@pytest.mark.slow_but("[graph]")
@pytest.mark.parametrize("mode", ["graph", "jit"])
def test_a_skipped_step_changes_nothing_else(mode):
    model = make_model()
    inner = optimizers.Adam(0.01, use_ema=True, weight_decay=0.1)
    optimizer = LossScaleOptimizer(inner, growth_steps=3, factors=(2.0, 0.25))
    train(model, optimizer, mode)
    x, y = data()
    for poison in (np.inf, np.nan):
        x[3, 2] = poison
        before = {
            id(v): v.numpy() for v in (*model.variables, *optimizer.variables)
        }
        skipped = int(optimizer.skipped_steps)
        model.train_on_batch(x[:8], y[:8])
        allowed = {
            id(optimizer.dynamic_scale): lambda old: old / 4,
            id(optimizer.step_counter): np.zeros_like,
            id(optimizer.skipped_steps): lambda old: old + 1,
            id(optimizer.skipped_in_a_row): lambda old: old + 1,
            id(optimizer.overflows_since_growth): lambda old: old + 1,
            id(optimizer.steps_since_overflow): np.zeros_like,
            id(optimizer.amax_history): lambda old: old * [1, 1, 0.25],
            **{
                id(state.variable): lambda old: old * [1, 1, 0.25]
                for state in states(model)
            },
        }
        for variable in (*model.variables, *optimizer.variables):
            old = before[id(variable)]
            if variable is optimizer.overflow_count:
                continue  # FP8 saturates, ReLU drops NaN: or not
            due = allowed.get(id(variable), np.array)(old).astype(old.dtype)
            assert same([due], values([variable])), variable.path
        assert int(optimizer.skipped_steps) == skipped + 1


@pytest.fixture(scope="module", params=modes.MODES)
def stepped(request):
    """A model, its optimizer, a step of given gradients, and all at first."""
    model = make_model()
    optimizer = LossScaleOptimizer("sgd")
    variables = model.trainable_variables
    optimizer.build(variables)
    run = modes.MODES[request.param]

    @run
    def step(seen, *gradients):
        see(model.layers[0], seen)
        see(model.layers[1])
        optimizer.apply(gradients, variables)

    kept = [*model.variables, *optimizer.variables]
    return model, optimizer, step, list(zip(kept, values(kept), strict=True))


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["gradient", "observation"])
def test_one_bad_number_skips_the_step(stepped, poison, where):
    model, optimizer, step, start = stepped
    for variable, value in start:
        variable.assign(value)
    variables = model.trainable_variables
    good, seen = [tf.ones(v.shape) for v in variables], tf.ones([3])
    bad, bad_seen = list(good), seen
    flat = np.ones(good[0].shape, "float32")
    flat[-1, -1] = poison
    if where == "gradient":
        bad[0] = tf.constant(flat)
    else:  # a NaN counts as infinite in an amax
        bad_seen = tf.constant([1.0, 1.0, np.inf])
    step(seen, *good)
    before = values(real(model))
    step(bad_seen, *bad)
    assert same(before, values(real(model)))
    assert int(optimizer.skipped_steps) == 1
    assert int(optimizer.iterations) == 1
    history = optimizer.amax_history.numpy()
    assert np.unique(history[0]).tolist() == [0.5, 1] and not history[1:].any()
    step(seen, *good)
    assert int(optimizer.iterations) == 2 and int(optimizer.step_counter) == 1


# Every way to run, every optimizer.


def test_the_ways_to_run_agree():
    models, losses = {}, {}
    for mode in FIT:
        models[mode] = make_model()
        inner = optimizers.Adam(0.01)
        optimizer = LossScaleOptimizer(inner, growth_steps=3)
        losses[mode] = train(models[mode], optimizer, mode)
        assert float(optimizer.dynamic_scale) == 2.0**17
    for mode in ("eager", "steps"):
        assert losses[mode] == losses["graph"]
        assert same(state(models[mode]), state(models["graph"]))
    np.testing.assert_allclose(losses["jit"], losses["graph"], rtol=0.01)
    assert losses["graph"][1] < 0.9 * losses["graph"][0]


def test_eager_training_may_start_with_another_gradient_scale():
    # The first forward pass comes before fit() builds the optimizer, which
    # knows the loss scale: only what the first products made is different.
    built, unbuilt = make_model(), make_model()
    train(built, LossScaleOptimizer("sgd"), "eager", epochs=1)
    unbuilt.compile(LossScaleOptimizer("sgd"), "mse", run_eagerly=True)
    unbuilt.fit(*data(), 8, verbose=0, shuffle=False)
    models = (built, unbuilt)
    first = [model.optimizer.amax_history.numpy()[3] for model in models]
    np.testing.assert_array_equal(*[seen[:, :GRADS] for seen in first])
    np.testing.assert_array_equal(*[seen[-1, GRADS] for seen in first])


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_model_that_fit_builds(mode):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([tfmp.layers.Dense(1, dtype="mixed_float8")])
    optimizer = LossScaleOptimizer("sgd")
    model.compile(optimizer, "mse", **FIT[mode])
    x, y = data()
    model.fit(x, y, 8, verbose=0, shuffle=False)
    history = optimizer.amax_history.numpy()[:, 0]
    assert (history[:4] > 0).all() and not history[4:].any()
    np.testing.assert_array_equal(
        model.layers[0].amax.numpy(), history.max(axis=0)
    )


@pytest.mark.parametrize("mode", ["graph", "jit"])
@pytest.mark.parametrize(
    ("make", "traces"),
    [(optimizers.LossScaleOptimizer, 2), (LossScaleOptimizer, 1)],
)
def test_the_first_step_is_traced_once(mode, make, traces):
    model, traced = make_model("mixed_bfloat16"), []
    own = model.train_step
    model.train_step = lambda batch: traced.append(batch) or own(batch)
    model.compile(make(optimizers.Adam()), "mse", **FIT[mode])
    model.fit(*data(), 8, verbose=0)
    assert len(traced) == traces
    assert model.optimizer.inner_optimizer.iterations.numpy() == 4


def make_inner(name: str) -> optimizers.Optimizer:
    if name != "MultiOptimizer":
        return CLASSES[name](learning_rate=0.01)
    mapped = {".*kernel": optimizers.Adam(0.01)}
    return optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.SGD(0.01), mapped)
    )


@pytest.mark.slow_but("graph]", "[Adam")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *[(name, "graph") for name in CLASSES],
        *[(name, "jit") for name in ("Muon", "MultiOptimizer")],
        *[(name, "eager") for name in ("Adam", "Ftrl")],
        ("ScheduleFreeAdamW", "steps"),
    ],
)
def test_every_optimizer_of_keras(name, mode):
    keras.utils.set_random_seed(0)
    layer = tfmp.layers.Dense(8, dtype="mixed_float8")
    model = keras.Sequential([keras.Input([8]), layer])
    optimizer = LossScaleOptimizer(make_inner(name))
    before = layer.kernel.numpy()
    model.compile(optimizer, "mse", **FIT[mode])
    x, y = data()
    losses = model.fit(x[:24], y[:24], 8, verbose=0, shuffle=False).history
    assert np.isfinite(losses["loss"]).all()
    assert np.isfinite(layer.kernel.numpy()).all()
    assert (layer.kernel.numpy() != before).any()
    assert int(optimizer.iterations) == 3 and not int(optimizer.skipped_steps)
    history = optimizer.amax_history.numpy()[:, 0]
    assert (history[:3] > 0).all() and not history[3:].any()
    assert history[0, INPUTS] == np.abs(x[16:24]).max()
    np.testing.assert_array_equal(layer.amax.numpy(), history.max(axis=0))
    paths = [v.path for v in optimizer.inner_optimizer.variables]
    assert not [path for path in paths if "_amax_" in path]


def test_there_are_optimizers_to_run():
    assert {"Adam", "SGD", "Muon", "MultiOptimizer"} < set(CLASSES)


# The inner optimizer never sees FP8 state.


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.1},
        {"clipnorm": 0.5},
        {"clipvalue": 0.01},
        {"global_clipnorm": 0.5},
        {"use_ema": True, "ema_momentum": 0.5},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_the_inner_optimizer_works_as_if_there_were_no_float8(settings):
    rng = np.random.default_rng(0)
    models = [make_model(), make_model()]
    alone = optimizers.Adam(0.01, **settings)
    alone.build(real(models[0]))
    inner = optimizers.Adam(0.01, **settings)
    wrapped = LossScaleOptimizer(inner, growth_steps=2)
    wrapped.build(models[1].trainable_variables)
    for _ in range(5):
        scale = float(wrapped.dynamic_scale)
        shapes = [v.shape for v in real(models[0])]
        gradients = [rng.normal(size=s).astype("float32") for s in shapes]
        alone.apply(list(map(tf.constant, gradients)))
        see(models[1], 1e6)
        wrapped.apply([tf.constant(scale * g) for g in gradients])
    alone.finalize_variable_values(real(models[0]))
    wrapped.finalize_variable_values(models[1].trainable_variables)
    assert same(values(real(models[0])), values(real(models[1])))
    assert same(values(alone.variables), values(inner.variables))
    # The loss scale grew after the second and the fourth step.
    for assumed in amax(models[1]):
        assert assumed.tolist() == [1e6, 1e6, 4e6]


@pytest.mark.parametrize("frequency", [None, 3])
def test_moving_averages_in_fit(frequency):
    model = make_model()
    inner = optimizers.SGD(
        0.01, use_ema=True, ema_overwrite_frequency=frequency
    )
    optimizer = LossScaleOptimizer(inner)
    swap = keras.callbacks.SwapEMAWeights()
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse", **FIT["eager"])
    x, y = data()
    model.fit(
        x,
        y,
        8,
        verbose=0,
        validation_data=(x, y),
        callbacks=[] if frequency else [swap],
    )
    averages = [v for v in inner.variables if v.path.endswith("_average")]
    assert same(values(real(model)), values(averages))
    largest = optimizer.amax_history.numpy().max(axis=0)
    np.testing.assert_array_equal(np.stack(amax(model)), largest)


# Custom loops.


def make_loop(
    model: keras.Model, optimizer: Any, run: Callable, edit: Callable
) -> Callable:
    """Returns a training step that edits the list of gradients."""
    mean_squared_error = keras.losses.MeanSquaredError()
    variables = model.trainable_variables
    optimizer.build(variables)

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = mean_squared_error(y, model(x, training=True))
            scaled = optimizer.scale_loss(loss)
        gradients = edit(tape.gradient(scaled, variables), variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return run(step)


def as_they_are(gradients: list, variables: list) -> list:
    return gradients


@pytest.fixture(scope="module")
def fitted() -> tuple[keras.Model, list[float]]:
    model = make_model()
    return model, train(model, LossScaleOptimizer("adam", growth_steps=3))


@modes.each_mode
def test_a_custom_loop_trains_as_fit_does(run, fitted):
    (fitted, expected), looped = fitted, make_model()
    optimizer = LossScaleOptimizer("adam", growth_steps=3)
    step = make_loop(looped, optimizer, run, as_they_are)
    x, y = map(tf.constant, data())
    losses = [
        np.mean([step(x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)])
        for _ in range(2)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    if run is not modes.MODES["xla"]:
        assert same(values(fitted.variables), values(looped.variables))
        assert float(optimizer.dynamic_scale) == 2.0**17


def one_step(inner: Any, edit: Callable) -> tuple[keras.Model, float]:
    """Takes one step of rate 1; returns the model and how far it moved."""
    model = make_model()
    optimizer = LossScaleOptimizer(inner, initial_scale=16.0)
    before = values(real(model))
    step = make_loop(model, optimizer, modes.MODES["eager"], edit)
    step(*[tf.constant(each[:8]) for each in data()])
    moved = [a - b for a, b in zip(values(real(model)), before, strict=True)]
    return model, float(tf.linalg.global_norm(moved))


def clipped(gradients: list) -> list:
    """Clips gradients of the scaled loss so that unscaled their norm is 1."""
    return tf.clip_by_global_norm(gradients, 16.0)[0]


def test_clipping_in_a_custom_loop():
    free, _ = one_step(optimizers.SGD(1.0), as_they_are)
    inside, moved = one_step(
        optimizers.SGD(1.0, global_clipnorm=1.0), as_they_are
    )
    assert moved == pytest.approx(1, rel=1e-5)
    by_hand, moved = one_step(optimizers.SGD(1.0), lambda g, v: clipped(g))
    assert moved == pytest.approx(1, rel=1e-5)
    for model in (inside, by_hand):
        assert same(amax(free), amax(model))


# Lists of variables.


def ones(variables: Sequence[Any], value: float = 1.0) -> list[tf.Tensor]:
    return [tf.fill(v.shape, value) for v in variables]


def test_a_part_of_the_variables():
    model = make_model()
    optimizer = LossScaleOptimizer("sgd", initial_scale=1.0)
    optimizer.build(model.trainable_variables)
    first, second = [layer.trainable_variables for layer in model.layers]
    before = values(second)
    see(model.layers[0])
    optimizer.apply(ones(first), first)
    assert same(values(second), before)
    assert model.layers[0].amax.numpy().tolist() == [1, 1, 1]
    see(model.layers[1], 2.0)
    optimizer.apply(ones(second, 2.0), second)
    assert model.layers[1].amax.numpy().tolist() == [2, 2, 2]
    see(model, 0.5)
    optimizer.apply(ones(model.trainable_variables, 0.5))
    # Each window still holds what came before, in whatever step.
    history = optimizer.amax_history.numpy()[:3, :, 0]
    assert history.tolist() == [[0.5, 0.5], [0, 2], [1, 0]]
    assert [assumed[0] for assumed in amax(model)] == [1, 2]


def test_variables_without_gradient():
    model = make_model()
    optimizer = LossScaleOptimizer("sgd")
    variables = model.trainable_variables
    gradients = ones(variables)
    optimizer.apply(gradients, variables)
    before = values(model.layers[1].trainable_variables)
    see(model.layers[0])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([*gradients[:2], None, None], variables)
    assert same(before, values(model.layers[1].trainable_variables))
    history = optimizer.amax_history.numpy()
    assert (history[0, 0] == 1).all() and not history[0, 1].any()
    assert int(optimizer.iterations) == 2


BOTH = (optimizers.LossScaleOptimizer, LossScaleOptimizer)


@pytest.mark.parametrize(
    ("policy", "mode", "makes"),
    [
        ("float32", "graph", BOTH),
        ("float32", "eager", BOTH),
        ("mixed_float8", "jit", [LossScaleOptimizer]),
    ],
)
def test_sparse_gradients(policy, mode, makes):
    x = np.random.default_rng(0).integers(10, size=[16, 3]).astype("int32")
    y = x.sum(axis=1, keepdims=True).astype("float32")
    trained = []
    for make in makes:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input([3], dtype="int32"),
                keras.layers.Embedding(10, 4),
                keras.layers.Flatten(),
                tfmp.layers.Dense(1, dtype=policy),
            ]
        )
        before = model.layers[0].embeddings.numpy()
        model.compile(make(optimizers.SGD(0.01)), "mse", **FIT[mode])
        model.fit(x, y, 8, verbose=0, shuffle=False)
        assert (model.layers[0].embeddings.numpy() != before).any()
        trained.append(model)
    assert not int(model.optimizer.skipped_steps)
    first, last = trained[0], trained[-1]
    assert same(values(first.variables), values(last.variables))


@pytest.mark.slow
@pytest.mark.parametrize("again", [True, False])
def test_freezing_a_layer_and_compiling_again(again):
    model, mode = make_model(), "graph" if again else "eager"
    optimizer = LossScaleOptimizer("adam", growth_steps=3)
    train(model, optimizer, mode)
    frozen = model.layers[0]
    frozen.trainable = False
    kernel, seen = frozen.kernel.numpy(), frozen.amax.numpy()
    if not again:
        optimizer = LossScaleOptimizer("adam", growth_steps=3)
    train(model, optimizer, mode)
    np.testing.assert_array_equal(frozen.kernel.numpy(), kernel)
    np.testing.assert_array_equal(frozen.amax.numpy()[:GRADS], seen[:GRADS])
    assert optimizer.amax_history.shape == (16, 2 if again else 1, 3)
    window = optimizer.amax_history.numpy()[:, -1]
    np.testing.assert_array_equal(
        model.layers[1].amax.numpy(), window.max(axis=0)
    )


def test_variables_of_another_model_are_refused():
    optimizer = LossScaleOptimizer("sgd")
    optimizer.build(make_model().trainable_variables)
    others = make_model().trainable_variables
    with pytest.raises(ValueError, match=r"Received: unknown variable '"):
        optimizer.apply(ones(others), others)
    with pytest.raises(ValueError, match="unknown variable"):
        optimizer.apply(ones(others[:2]), others[:2])


def test_lists_that_do_not_fit():
    optimizer = LossScaleOptimizer("sgd")
    variables = make_model().trainable_variables
    with pytest.raises(TypeError, match=r"`trainable_variables`.*Received: N"):
        optimizer.apply(ones(variables))
    with pytest.raises(ValueError, match=r"`grads`.*Received: 2 for 4"):
        optimizer.apply(ones(variables[:2]), variables)


# On disk.


def scheduled(use_ema: bool = True) -> LossScaleOptimizer:
    """Returns an optimizer with every argument away from its default."""
    rate = optimizers.schedules.CosineDecay(0.01, 40, alpha=0.1)
    inner = optimizers.AdamW(
        rate,
        weight_decay=0.01,
        beta_1=0.8,
        global_clipnorm=5.0,
        use_ema=use_ema,
        ema_momentum=0.9,
        ema_overwrite_frequency=7,
        name="inside",
    )
    return LossScaleOptimizer(
        inner,
        initial_scale=64.0,
        growth_steps=3,
        factors=(4.0, 0.25),
        bounds=(0.5, 2.0**20),
        dynamic=True,
        hysteresis=2,
        name="outside",
    )


def from_keras(model: keras.Model, path: pathlib.Path) -> keras.Model:
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


def from_checkpoint(
    model: keras.Model, path: pathlib.Path, build_first: bool = True
) -> keras.Model:
    again, optimizer = make_model(), scheduled(use_ema=False)
    for variable in again.variables:
        variable.assign(tf.zeros_like(variable))
    if build_first:
        optimizer.build(again.trainable_variables)
    written = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint = tf.train.Checkpoint(model=again, optimizer=optimizer)
    status = checkpoint.restore(written.save(str(path / "at")))
    if not build_first:
        optimizer.build(again.trainable_variables)
    status.assert_consumed()
    again.compile(optimizer, "mse", **FIT["graph"])
    return again


def from_checkpoint_before_build(
    model: keras.Model, path: pathlib.Path
) -> keras.Model:
    return from_checkpoint(model, path, build_first=False)


@pytest.fixture(scope="module")
def through() -> tuple[keras.Model, list[float]]:
    """Without moving averages: `fit` writes them into the weights at its end.

    So does `stopped`, half as long.
    """
    model = make_model()
    return model, train(model, scheduled(use_ema=False), epochs=8)


@pytest.fixture(scope="module")
def stopped() -> tuple[keras.Model, list[float]]:
    model = make_model()
    return model, train(model, scheduled(use_ema=False), epochs=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "restore", [from_keras, from_checkpoint, from_checkpoint_before_build]
)
def test_training_goes_on_from_disk(restore, through, stopped, tmp_path):
    (through, losses), (stopped, first) = through, stopped
    again = restore(stopped, tmp_path)
    assert same(state(stopped), state(again))
    last = again.fit(*data(), 8, 4, verbose=0, shuffle=False).history["loss"]
    assert [*first, *last] == losses
    assert same(state(through), state(again))
    assert float(again.optimizer.dynamic_scale) > 64


def test_moving_averages_are_saved_too(tmp_path):
    model = make_model()
    train(model, scheduled())
    again = from_keras(model, tmp_path)
    assert same(state(model), state(again))
    assert again.optimizer.get_config() == model.optimizer.get_config()


def test_configuration_round_trip():
    static = LossScaleOptimizer("sgd", 4.0, dynamic=False)
    for optimizer in (scheduled(), static):
        config = optimizer.get_config()
        kept = copy.deepcopy(config)
        again = LossScaleOptimizer.from_config(config)
        assert config == kept
        assert again.get_config() == kept == json.loads(json.dumps(kept))
        other = optimizers.deserialize(optimizers.serialize(optimizer))
        assert type(other) is LossScaleOptimizer
        assert other.get_config() == kept


def test_the_round_trip_sets_every_argument():
    parameters = dict(inspect.signature(LossScaleOptimizer).parameters)
    del parameters["kwargs"]  # of Keras' files
    config = scheduled().get_config()
    assert set(config) == {*parameters, "name"}
    parameters["name"] = inspect.Parameter("name", 3, default=None)
    default = {n: p.default for n, p in parameters.items()}
    equal = {n for n, value in config.items() if value == default[n]}
    assert equal == {"dynamic"}  # which the static one has


# Arguments.


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("inner_optimizer", 1.0, TypeError),
        ("inner_optimizer", None, TypeError),
        ("inner_optimizer", optimizers.Adam, TypeError),
        ("initial_scale", "8", TypeError),
        ("initial_scale", True, TypeError),
        ("initial_scale", 0.5, ValueError),
        ("initial_scale", 2.0**25, ValueError),
        ("initial_scale", float("nan"), ValueError),
        ("growth_steps", 1.0, TypeError),
        ("growth_steps", True, TypeError),
        ("growth_steps", 0, ValueError),
        ("factors", 2.0, TypeError),
        ("factors", (2.0, 0.5, 1.0), TypeError),
        ("factors", ("2", 0.5), TypeError),
        ("factors", (1.0, 0.5), ValueError),
        ("factors", (2.0**17, 0.5), ValueError),
        ("factors", (2.0, None), TypeError),
        ("factors", (2.0, 1.0), ValueError),
        ("factors", (2.0, 0.0), ValueError),
        ("factors", (2.0, -0.5), ValueError),
        ("bounds", None, TypeError),
        ("bounds", ("1", 2.0), TypeError),
        ("bounds", (0.0, 2.0), ValueError),
        ("bounds", (float("inf"), 2.0), ValueError),
        ("bounds", (1.0, []), TypeError),
        ("bounds", (1.0, 0.5), ValueError),
        ("bounds", (1.0, 2.0**41), ValueError),
        ("dynamic", 1, TypeError),
        ("hysteresis", 1.0, TypeError),
        ("hysteresis", 0, ValueError),
    ],
)
def test_wrong_arguments(argument, value, error):
    arguments = {"inner_optimizer": "sgd", argument: value}
    with pytest.raises(error, match=rf"`{argument}(\[\d\])?` must .*Rec"):
        LossScaleOptimizer(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.LossScaleOptimizer(optimizers.SGD()),
        lambda: LossScaleOptimizer(optimizers.SGD()),
        lambda: optimizers.SGD(loss_scale_factor=8.0),
    ],
)
def test_an_inner_optimizer_that_scales_the_loss(make):
    with pytest.raises(ValueError, match=r"`inner_optimizer` must not .*Rec"):
        LossScaleOptimizer(make())


def test_compile_does_not_wrap_it_again():
    model = make_model("mixed_float16")
    optimizer = LossScaleOptimizer("sgd")
    model.compile(optimizer, "mse")
    assert model.optimizer is optimizer


# How much it adds to a step.


def make_step(layer: type, depth: int, **options: Any) -> Any:
    """Returns a step of an optimizer on given gradients, and those."""
    model = keras.Sequential([keras.Input([4])])
    for _ in range(depth):
        model.add(layer(4, dtype="mixed_float8"))
    variables = model.trainable_variables
    optimizer = LossScaleOptimizer(optimizers.SGD(0.01))
    optimizer.build(variables)

    @tf.function(**options)
    def step(*gradients: tf.Tensor) -> None:
        optimizer.apply(list(gradients), variables)

    return step, [tf.zeros(v.shape) for v in variables]


def operations(layer: type, depth: int) -> collections.Counter:
    """Counts the operations of a step's graph, all branches together."""
    step, gradients = make_step(layer, depth)
    graph = step.get_concrete_function(*gradients).graph.as_graph_def()
    bodies = [graph.node, *[f.node_def for f in graph.library.function]]
    names = [node.op for body in bodies for node in body]
    return collections.Counter(n for n in names if n != "Placeholder")


def instructions(layer: type, depth: int) -> Any:
    """Counts the instructions that XLA is given for a step."""
    step, gradients = make_step(layer, depth, jit_compile=True)
    text = step.experimental_get_compiler_ir(*gradients)(stage="hlo")
    found = re.findall(r"^ .* = .*?[\])}] ([a-z-]+)\(", text, re.MULTILINE)
    return collections.Counter(found)


@keras.saving.register_keras_serializable("tests")
class Wide(keras.layers.Dense):
    """A layer that is not in FP8, under any policy."""

    def __init__(self, units: int, dtype: Any) -> None:
        super().__init__(units, dtype="float32")


def added(count: Callable, depth: int) -> collections.Counter:
    """Counts what layers in FP8 add to the same step without."""
    return count(tfmp.layers.Dense, depth) - count(Wide, depth)


def test_operations_do_not_grow_with_depth():
    two, six = (added(operations, depth) for depth in (2, 6))
    assert two["Pack"] and two["Unpack"]
    # Inputs of the two gathers, and an output of the scatter.
    growth = {op: six[op] - two[op] for op in six if six[op] != two[op]}
    assert growth == {"ReadVariableOp": 2 * 4, "AssignVariableOp": 4}


def test_compiled_arithmetic_does_not_grow_with_depth():
    two, four = (added(instructions, depth) for depth in (2, 4))
    growing = {op for op in four if four[op] != two[op]}
    assert growing == {"copy", "parameter", "reshape", "slice"}
