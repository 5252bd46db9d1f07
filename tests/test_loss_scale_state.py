"""The loss scale's rule, its counters, and what of a file is loaded."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

import tfmp
from tfmp._keras import weights_saving
from tfmp.optimizers import LossScaleOptimizer, gradients

INF, NAN = np.inf, np.nan


def scripted(**settings):
    """Returns an optimizer, and a function that takes a step of a gradient."""
    optimizer = LossScaleOptimizer("sgd", **settings)
    weight = keras.Variable([1.0, 2.0])
    optimizer.build([weight])
    return optimizer, lambda g: optimizer.apply([tf.fill([2], g)], [weight])


def scales(optimizer, step, values):
    found = []
    for value in values:
        step(float(value))
        found.append(float(optimizer.dynamic_scale))
    return found


class DeepSpeed:
    """deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler, said again."""

    def __init__(self, scale, window, hysteresis):
        self.scale, self.window, self.hysteresis = scale, window, hysteresis
        self.left, self.good = hysteresis, 0

    def step(self, overflow):
        if overflow:
            self.good = 0
            if self.left == 1:
                self.scale = max(self.scale / 2, 1)
            else:
                self.left -= 1
            return
        self.good += 1
        if self.good == self.window:
            self.good, self.left = 0, self.hysteresis
            self.scale *= 2


@pytest.mark.parametrize("hysteresis", [1, 2, 3])
def test_hysteresis_is_that_of_deepspeed(hysteresis):
    optimizer, step = scripted(
        initial_scale=64.0, growth_steps=3, hysteresis=hysteresis
    )
    theirs = DeepSpeed(64.0, 3, hysteresis)
    rng = np.random.default_rng(0)
    seen = set()
    for overflow in rng.random(120) < 0.3:
        step(INF if overflow else 1.0)
        theirs.step(overflow)
        assert float(optimizer.dynamic_scale) == theirs.scale
        seen.add(theirs.scale)
    assert len(seen) > 3


def test_one_bad_batch_costs_no_range_with_hysteresis():
    optimizer, step = scripted(initial_scale=64.0, growth_steps=3, hysteresis=2)
    good, bad = 1.0, INF
    assert scales(optimizer, step, [bad, good, good]) == [64, 64, 64]
    # It grows and forgives; then the second overflow in a window counts.
    assert scales(optimizer, step, [good, bad, good, bad]) == [
        128,
        128,
        128,
        64,
    ]


@pytest.mark.parametrize("stored", [0.0, -1.0, 1e-30, INF, NAN, 2.0**60])
def test_a_broken_scale_in_a_checkpoint_is_never_used(stored):
    optimizer, step = scripted(
        initial_scale=16.0, bounds=(0.5, 2.0**20), growth_steps=9
    )
    optimizer.dynamic_scale.assign(stored)
    expected = 16.0 if np.isnan(stored) else np.clip(stored, 0.5, 2.0**20)
    assert float(optimizer.scale_loss(1.0)) == expected
    assert optimizer.statistics["loss_scale"] == expected
    step(float(expected))  # The gradient of a loss of slope one.
    assert float(optimizer.dynamic_scale) == expected
    np.testing.assert_allclose(
        optimizer._trainable_variables[0].numpy(), [0.99, 1.99]
    )
    optimizer.dynamic_scale.assign(stored)
    step(NAN)
    assert float(optimizer.dynamic_scale) == max(expected / 2, 0.5)


def test_a_scale_recovers_from_both_bounds():
    optimizer, step = scripted(
        initial_scale=4.0, bounds=(1.0, 64.0), growth_steps=1
    )
    assert scales(optimizer, step, [1] * 10)[-1] == 64
    assert scales(optimizer, step, [INF] * 10)[-1] == 1
    assert scales(optimizer, step, [1] * 3) == [2, 4, 8]


def test_growth_resumes_with_fewer_growth_steps_than_were_taken():
    # Keras compares for equality, and would never grow again.
    optimizer, step = scripted(initial_scale=4.0, growth_steps=2)
    optimizer.step_counter.assign(1000)
    assert scales(optimizer, step, [1]) == [8]


def test_statistics():
    optimizer, step = scripted(initial_scale=8.0)
    new = LossScaleOptimizer("sgd", initial_scale=8.0).statistics
    assert new == optimizer.statistics
    for gradient in [1, 1, INF, 1, NAN, -INF, 1, 1]:
        step(float(gradient))
    assert optimizer.statistics == {
        "loss_scale": 1.0,
        "overflow_count": 3,
        "skipped_steps": 3,
        "skipped_in_a_row": 0,
        "steps_since_overflow": 2,
    }
    step(INF)
    step(INF)
    assert optimizer.statistics["skipped_in_a_row"] == 2
    assert optimizer.statistics["steps_since_overflow"] == 0


def test_what_float8_saturates_is_skipped_but_no_overflow_of_a_gradient():
    layer = tfmp.layers.Dense(2, dtype="mixed_float8")
    layer.build([None, 4])
    optimizer = LossScaleOptimizer("sgd", 1.0)
    variables = layer.trainable_variables
    optimizer.build(variables)
    layer.float8.begin_pass().take_in(tf.constant([INF, 1, 1], tf.float32))
    optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    assert optimizer.statistics["skipped_steps"] == 1
    assert optimizer.statistics["overflow_count"] == 0


# Gradient accumulation.


def accumulate(batches, steps, loss_scale=1.0):
    """Trains on batches; returns the layer and the optimizer."""
    keras.utils.set_random_seed(0)
    layer = tfmp.layers.Dense(4, dtype="mixed_float8")
    layer.build([None, 8])
    inner = optimizers.SGD(0.1, gradient_accumulation_steps=steps)
    optimizer = LossScaleOptimizer(inner, loss_scale, dynamic=False)
    optimizer.build(layer.trainable_variables)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            y = tf.cast(layer(x, training=True), tf.float32)
            loss = optimizer.scale_loss(tf.reduce_sum(y * x[:, :4]))
        variables = layer.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    for x in batches:
        step(tf.constant(x))
    return layer, optimizer


def batch(seed=0, size=32):
    # Both bfloat16 and E4M3 hold these: the order of sums is all there is.
    x = np.random.default_rng(seed).integers(-8, 9, [size, 8]) / 8
    x[5, 2], x[size - 3, 1] = 4.0, -6.0
    return x.astype("float32")


@pytest.mark.parametrize("steps", [2, 4])
def test_micro_batches_observe_what_the_full_batch_does(steps):
    full, micro = batch(), np.split(batch(), steps)
    one, by_batch = accumulate([full], None)
    many, by_micro = accumulate(micro, steps)
    assert int(by_micro.iterations) == 1
    # The last update's entry of the window, and so every scale, is the same.
    np.testing.assert_array_equal(
        by_micro.amax_history.numpy(), by_batch.amax_history.numpy()
    )
    assert by_micro.amax_history.numpy()[0, 0].tolist()[0] == 6
    np.testing.assert_array_equal(many.amax.numpy(), one.amax.numpy())


def test_each_update_has_one_entry_of_the_window():
    batches = [batch() * 2.0**i for i in range(3)]
    micro = [part for each in batches for part in np.split(each, 4)]
    _, optimizer = accumulate(micro, 4)
    history = optimizer.amax_history.numpy()[:, 0, 0]
    assert history[:4].tolist() == [24, 12, 6, 0]


def test_a_skipped_micro_batch_is_replaced_by_the_next():
    good = np.split(batch(), 4)
    bad = good[1].copy()
    bad[0, 0] = np.inf
    with_bad = [bad, good[0], good[1], bad, good[2], good[3]]
    expected, first = accumulate(good, 4)
    layer, optimizer = accumulate(with_bad, 4)
    assert optimizer.statistics["skipped_steps"] == 2
    assert int(optimizer.iterations) == 1
    np.testing.assert_array_equal(
        optimizer.amax_history.numpy(), first.amax_history.numpy()
    )
    np.testing.assert_array_equal(layer.kernel.numpy(), expected.kernel.numpy())


@pytest.mark.parametrize("parts", [1, 4])
def test_micro_batches_of_one_compiled_step_quantize_the_kernel_once(parts):
    layer = tfmp.layers.Dense(48, use_bias=False, dtype="mixed_float8")
    layer.build([None, 40])
    variables = [v.value for v in layer.trainable_variables]

    @tf.function(jit_compile=True, autograph=False)
    def step(x):
        gradients = []
        for part in tf.split(x, parts):
            with tf.GradientTape() as tape:
                y = tf.cast(layer(part, training=True), tf.float32)
                loss = tf.reduce_sum(tf.square(y))
            gradients.append(tape.gradient(loss, variables))
        return gradients

    x = tf.ones([16, 40])
    program = step.experimental_get_compiler_ir(x)(stage="optimized_hlo")
    assert program.count("= f8e4m3fn[40,48]") == 1


# Files.


def trained(optimizer):
    """A model of one FP8 layer after three steps of an optimizer."""
    keras.utils.set_random_seed(0)
    layer = tfmp.layers.Dense(4, dtype="mixed_float8")
    model = keras.Sequential([keras.Input([8]), layer])
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(batch(), batch()[:, :4], 16, verbose=0)
    return model


def adam():
    return optimizers.Adam(0.01)


# Keras looks for the inner optimizer's own entry too, which a plain file lacks.
@pytest.mark.filterwarnings("ignore:Skipping.*saved optimizer has 0 variables")
@pytest.mark.filterwarnings("error:Skipping.*saved optimizer has [1-9]")
@pytest.mark.parametrize(
    "saved",
    [
        adam,
        lambda: optimizers.LossScaleOptimizer(adam(), 64.0),
        lambda: LossScaleOptimizer(adam(), 64.0),
    ],
    ids=["inner", "keras", "tfmp"],
)
def test_state_of_other_optimizers_is_loaded(saved, tmp_path):
    first = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
    first.compile(saved(), "mse", jit_compile=False)
    first.fit(batch(), batch()[:, :4], 16, verbose=0)
    first.save_weights(tmp_path / "x.weights.h5")
    again = trained(LossScaleOptimizer(adam(), 16.0))
    again.load_weights(tmp_path / "x.weights.h5")
    inner = getattr(first.optimizer, "inner_optimizer", first.optimizer)
    pairs = zip(
        inner.variables,
        again.optimizer.inner_optimizer.variables,
        strict=True,
    )
    for theirs, ours in pairs:
        np.testing.assert_array_equal(theirs.numpy(), ours.numpy())
    expected = 16.0 if inner is first.optimizer else 64.0
    assert float(again.optimizer.dynamic_scale) == expected
    again.fit(batch(), batch()[:, :4], 16, verbose=0)


def test_state_of_other_shapes_is_refused_whole():
    model = trained(LossScaleOptimizer(adam(), 16.0))
    optimizer = model.optimizer
    store = {str(i): v.numpy() + 1 for i, v in enumerate(optimizer.variables)}
    last = str(len(store) - 1)
    store[last] = store[last][:-1]
    before = [v.numpy() for v in optimizer.variables]
    with pytest.raises(
        ValueError, match=r"velocity' must have .*Received: \(3"
    ):
        optimizer.load_own_variables(store)
    for old, variable in zip(before, optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_state_of_another_optimizer_is_skipped_with_a_word():
    optimizer = trained(LossScaleOptimizer(adam(), 16.0)).optimizer
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        optimizer.load_own_variables({"0": np.ones([])})


def test_a_history_that_is_not_finite_is_not_loaded():
    optimizer = trained(LossScaleOptimizer(adam(), 16.0)).optimizer
    store = {str(i): v.numpy() for i, v in enumerate(optimizer.variables)}
    place = [v is optimizer.amax_history for v in optimizer.variables]
    key = str(place.index(True))
    saved = store[key].copy()
    store[key] = saved.copy()
    store[key][0, 0, 1], store[key][1, 0, 0] = NAN, INF
    optimizer.load_own_variables(store)
    history = optimizer.amax_history.numpy()
    assert history[0, 0, 1] == history[1, 0, 0] == 0
    assert (history != saved).sum() == 2


def test_building_again_changes_nothing():
    model = trained(LossScaleOptimizer(adam(), 16.0))
    optimizer = model.optimizer
    before = [(v.path, v.numpy()) for v in optimizer.variables]
    optimizer.build(model.trainable_variables)
    after = [(v.path, v.numpy()) for v in optimizer.variables]
    np.testing.assert_equal(before, after)


def test_rebuild_takes_no_variables_of_another_model():
    model, other = (trained(LossScaleOptimizer(adam())) for _ in range(2))
    with pytest.raises(ValueError, match=r"`var_list`.*unknown variable"):
        model.optimizer.rebuild(other.trainable_variables)
    model.fit(batch(), batch()[:, :4], 16, verbose=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("growth_steps", 2**70),
        ("factors", (1 + 1e-9, 0.5)),
        ("factors", (2.0, 1 - 1e-9)),
    ],
)
def test_settings_that_float32_or_int32_would_lose(name, value):
    with pytest.raises(ValueError, match=rf"`{name}.*` must be"):
        LossScaleOptimizer("sgd", **{name: value})


def test_parts_that_accumulate_for_themselves_are_refused():
    parts = optimizers.OptimizerMap(
        optimizers.SGD(gradient_accumulation_steps=2)
    )
    with pytest.raises(ValueError, match=r"`inner_optimizer`.*=2\)"):
        LossScaleOptimizer(optimizers.MultiOptimizer(parts))


@pytest.mark.parametrize("shapes", [[(3,)], [(128, 160), (7,), ()], [(2**15,)]])
@pytest.mark.parametrize("scale", [1.0, 2.0**15])
def test_gradients_are_bad_from_a_bound_on(shapes, scale):
    """Below it their norm is finite, whatever their number."""
    count = sum(int(np.prod(shape)) for shape in shapes)
    bound = np.sqrt(np.finfo("float32").max / np.float32(count))
    for place in range(len(shapes)):
        for factor, bad in ((0.99, False), (1.01, True), (np.nan, True)):
            below = [np.full(s, 0.99 * bound, "float32") for s in shapes]
            below[place].flat[-1] = factor * bound
            given = [tf.constant(g * np.float32(scale)) for g in below]
            assert bool(gradients.fault([None, *given], scale) > 0) == bad
    below = [tf.fill(shape, tf.constant(0.99 * bound)) for shape in shapes]
    assert np.isfinite(tf.linalg.global_norm(below))


def test_bad_gradients_of_other_kinds():
    sparse = tf.IndexedSlices(tf.constant([[1e30]]), [0], [4, 1])
    assert gradients.fault([sparse], 1.0) > 0
    half = tf.constant([np.inf], tf.float16)
    assert gradients.fault([half], 2.0**15) > 0
    assert gradients.fault([None], 1.0) == 0
    empty = tf.zeros([0, 3])
    assert gradients.fault([empty, tf.ones([2])], 1.0) == 0


def two_steps(optimizer):
    """A model that was trained for two steps, and its data."""
    keras.utils.set_random_seed(0)
    layer = tfmp.layers.Dense(64, dtype="mixed_float8")
    model = keras.Sequential([keras.Input([64]), layer])
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=[64, 64])
    model.fit(x, x, 32, verbose=0, shuffle=False)
    return model, x


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and files of it as they are and as they were before."""
    folder = tmp_path_factory.mktemp("saved")
    model, x = two_steps(LossScaleOptimizer("adam"))
    model.save(folder / "now.keras")
    model.save_weights(folder / "now.weights.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_saving, "save_once", lambda *_: None)
        model.save(folder / "before.keras")
    return folder, model, x


def test_a_file_holds_the_moments_once(saved):
    folder, model, _ = saved
    plain, _ = two_steps("adam")
    plain.save(folder / "plain.keras")
    sizes = {p.stem: p.stat().st_size for p in folder.glob("*.keras")}
    moments = 2 * 4 * model.count_params()
    assert sizes["before"] - sizes["now"] > 0.9 * moments
    assert sizes["now"] - sizes["plain"] < 0.5 * moments


def test_nothing_of_a_save_stays_on_the_inner_optimizer(tmp_path):
    """Keras saves an attribute of the model before, if its name is earlier."""
    inner = keras.optimizers.Adam()
    model, _ = two_steps(LossScaleOptimizer(inner))
    model.adam = inner
    path = tmp_path / "own.weights.h5"
    model.save_weights(path)
    assert "save_own_variables" not in vars(inner)
    saved = [variable.numpy() for variable in model.optimizer.variables]
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    model.load_weights(path)
    for variable, value in zip(model.optimizer.variables, saved, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("name", ["now.keras", "before.keras"])
def test_a_training_goes_on_from_a_file_bit_for_bit(saved, name):
    folder, model, x = saved
    loaded = keras.models.load_model(folder / name)
    for variable, other in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(variable, other)
    model.load_weights(folder / name)
    losses = [
        each.fit(x, x, 32, verbose=0, shuffle=False).history["loss"]
        for each in (model, loaded)
    ]
    model.load_weights(folder / name)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["now.keras", "now.weights.h5"])
def test_kerass_own_optimizer_finds_the_moments(saved, name):
    folder, model, _ = saved
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    other, _ = two_steps(optimizer)
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        other.load_weights(folder / name)
    model.load_weights(folder / "now.keras")
    for variable, loaded in zip(
        model.optimizer.inner_optimizer.variables,
        optimizer.inner_optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(variable, loaded)
