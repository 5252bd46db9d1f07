"""A training that skips its steps says so, once, however it is run."""

import contextlib
import gc
import json
import pathlib
import re
import warnings
import weakref

import forked
import keras
import modes
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp.optimizers import LossScaleOptimizer
from tfmp.optimizers.scale_rule import ScaleRule
from tfmp.optimizers.skipped_steps import Counts, words

ROOT = pathlib.Path(__file__).resolve().parent.parent
WAYS = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
    "executions": {"jit_compile": False, "steps_per_execution": 8},
    "executions by xla": {"jit_compile": True, "steps_per_execution": 8},
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def make_model(optimizer=None, **way):
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.compile(optimizer or LossScaleOptimizer("sgd"), "mse", **way)
    return model


def data(pattern):
    """A step of two rows for each letter; "b" has a label that is NaN."""
    y = np.ones([len(pattern), 2, 1], "float32")
    y[[letter == "b" for letter in pattern]] = np.nan
    return np.ones([2 * len(pattern), 3], "float32"), y.reshape([-1, 1])


def fit(model, pattern, **options):
    x, y = data(pattern)
    model.fit(x, y, 2, shuffle=False, verbose=0, **options)


@contextlib.contextmanager
def told():
    """Yields the warnings about skipped steps, as they come."""
    said = []
    with warnings.catch_warnings(record=True) as every:
        warnings.simplefilter("always")
        yield said
    said += [w for w in every if " skipped " in str(w.message)]


def only(said):
    assert [each.category for each in said] == [RuntimeWarning]
    return str(said[0].message)


@each_way
def test_fit_of_skipped_steps(way):
    model = make_model(**way)
    with told() as said:
        fit(model, "b" * 120)
        statistics = model.optimizer.statistics
    text = only(said)
    many = r"skipped (5\d) of the steps 1 to \1, the last \1 in"
    assert re.search(many, text)
    assert "The loss scale is 1, its minimum" in text
    assert "find_nonfinite(model, x, y)" in text
    assert statistics["skipped_steps"] == 120


@each_way
def test_fit_that_skips_most(way):
    model = make_model(**way)
    with told() as said:
        fit(model, "bbbggbgbb", epochs=2)
    text = only(said)
    assert "skipped 12 of the steps 1 to 18, the last 2 in a row" in text
    assert "The loss scale is 8 and can fall to 1;" in text


@pytest.mark.slow_but("[graph]", "[xla]")
@each_way
def test_trainings_that_go_well_say_nothing(way):
    model = make_model(**way)
    with told() as said:
        fit(model, "g" * 120)
        fit(model, "bbbgggg")  # how a loss scale finds its limit
        fit(model, "bb")
        model.optimizer.statistics  # noqa: B018
    assert said == []


@pytest.mark.parametrize("way", ["graph", "xla"])
def test_each_fit_is_told_of(way):
    model = make_model(**WAYS[way])
    with told() as said:
        fit(model, "b" * 20)
        fit(model, "g" * 20)
        fit(model, "gbbbbbbbb")
    first, second = [str(each.message) for each in said]
    assert "skipped 20 of the steps 1 to 20" in first
    assert "skipped 8 of the steps 41 to 49, the last 8 in a row" in second


class Stops(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 59:
            raise KeyboardInterrupt


def test_a_fit_after_one_that_was_interrupted():
    model = make_model(jit_compile=True)
    with told() as said:
        with pytest.raises(KeyboardInterrupt):
            fit(model, "b" * 80, callbacks=[Stops()])
        fit(model, "b" * 80)
    assert ["1 to 50," in str(each.message) for each in said] == [True, False]


@pytest.mark.slow
def test_fits_of_one_step_each():
    """That one alone was skipped says little; fifty in a row say a lot."""
    model = make_model(jit_compile=True)
    with told() as said:
        for _ in range(60):
            fit(model, "b")
    assert "skipped 50 of the steps 1 to 50" in only(said)


@pytest.mark.parametrize("way", ["eager", "graph", "xla"])
def test_train_on_batch(way):
    model = make_model(**WAYS[way])
    x, y = data("b")
    with told() as said:
        for _ in range(120):
            model.train_on_batch(x, y)
    assert "skipped 50 of the steps 1 to 50" in only(said)


def train(optimizer, run, steps=120):
    model = make_model()
    optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    step, batch = run(step), [tf.constant(part) for part in data("b")]
    for _ in range(steps):
        step(*batch)


@pytest.mark.parametrize("accumulated", [None, 4])
def test_eager_loops_of_the_users(accumulated):
    inner = keras.optimizers.SGD(gradient_accumulation_steps=accumulated)
    with told() as said:
        train(LossScaleOptimizer(inner), modes.MODES["eager"])
    assert "skipped 50 of the steps 1 to 50" in only(said)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_function_of_the_users_says_it_when_python_asks(mode):
    run = modes.MODES[mode]
    optimizer = LossScaleOptimizer("sgd", name="of the critic")
    with told() as said:
        train(optimizer, run)
    assert said == []  # it may be part of what XLA compiles
    with told() as said:
        assert optimizer.statistics["skipped_in_a_row"] == 120
        optimizer.save_own_variables({})
    text = only(said)
    assert "LossScaleOptimizer 'of the critic' skipped 120 of the st" in text


def test_a_step_by_xla_within_a_graph():
    optimizer = LossScaleOptimizer("sgd")
    with told() as said:
        train(optimizer, lambda step: tf.function(modes.MODES["xla"](step)))
        optimizer.save_own_variables({})
    assert "skipped 120 of the steps 1 to 120" in only(said)


def test_functions_keep_no_optimizer():
    optimizer = LossScaleOptimizer("sgd")
    train(optimizer, modes.MODES["graph"], steps=2)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


class Own(keras.Sequential):
    made = 0

    def make_train_function(self, force=False):
        self.made += 1
        super().make_train_function(force)


def test_models_that_make_their_function_and_change_their_optimizer():
    model = Own([keras.Input([3]), keras.layers.Dense(1)])
    for _ in range(2):
        model.compile(LossScaleOptimizer("sgd"), "mse", jit_compile=True)
    with told() as said:
        fit(model, "b" * 60)
    assert "skipped 50" in only(said) and model.made == 1
    model.compile("sgd", "mse")
    fit(model, "gg")
    assert model.made == 2 and np.isfinite(model.get_weights()[0]).all()


def test_an_optimizer_that_conversion_wraps():
    model = make_model(keras.optimizers.SGD(), jit_compile=True)
    fit(model, "g")
    tfmp.set_precision(model, "mixed_float16")
    assert isinstance(model.optimizer, LossScaleOptimizer)
    with told() as said:
        fit(model, "b" * 60)
    assert "skipped 50 of the steps 2 to 51, the last 50 in a" in only(said)


RULE = ScaleRule(2.0**15, 2000, (2.0, 0.5), (1.0, 2.0**24), True, 1)


def fixed(scale):
    return ScaleRule(scale, 1, (2.0, 0.5), (1.0, 2.0**24), False, 1)


@pytest.mark.parametrize(
    ("now", "scale", "rule", "said"),
    [
        (Counts(5, 60, 55, 80), 1.0, RULE, "41 to 80, the last 5 in a row"),
        (Counts(0, 60, 55, 80), 1.0, RULE, "skipped 30 of the steps 41 to 80:"),
        (Counts(40, 60, 60, 80), 1.0, RULE, "skipped 60 of the steps 1 to 80"),
        (Counts(5, 60, 55, 80), 1.0, RULE, "All had gradients"),
        (Counts(5, 60, 25, 80), 1.0, RULE, "All had an activation too large"),
        (Counts(5, 60, 35, 80), 1.0, RULE, "10 had gradients"),
        (Counts(5, 60, 35, 80), 1.0, RULE, "; 20 had an activation too large"),
        (Counts(5, 60, 35, 80), 4.0, RULE, "4 and can fall to 1;"),
        (Counts(5, 60, 35, 80), 4.0, fixed(4.0), "fixed at 4: lower initial"),
        (Counts(5, 60, 35, 80), 1.0, fixed(1.0), "fixed at 1: the cause is an"),
    ],
)
def test_words(now, scale, rule, said):
    assert said in words(Counts(0, 30, 25, 40), now, scale, rule)


def mirrored():
    """Trains on two replicas, by `fit` and in a loop, and returns the words."""
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, halves)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = []
    for way in ("graph", "eager"):
        with strategy.scope():
            model = make_model(**WAYS[way])
        with told() as said:
            fit(model, "b" * 70)
        found.append([str(each.message) for each in said])
    with strategy.scope(), told() as said:
        optimizer = LossScaleOptimizer("sgd")
        train(
            optimizer,
            lambda step: tf.function(
                lambda *batch: strategy.run(step, args=batch)
            ),
        )
        assert optimizer.statistics["skipped_steps"] == 120
    return [*found, [str(each.message) for each in said]]


@pytest.mark.slow
def test_mirrored_strategy():
    program = "import json; from test_skipped_steps import mirrored; "
    result = forked.run(
        program + "print(json.dumps(mirrored()))",
        path=(ROOT, ROOT / "tests"),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert [len(said) for said in found] == [1] * 3
    for (text,), many in zip(found, (50, 50, 120), strict=True):
        assert f"skipped {many} of the steps 1 to {many}" in text
