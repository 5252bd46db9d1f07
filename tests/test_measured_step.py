"""Sampled steps measure, in real training, and change nothing else."""

import json
import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmp import formats, layers, policies, recipes
from tfmp._core import scaling, statistics
from tfmp._monitoring.measured_step import MeasuredStep
from tfmp._monitoring.operators import operators
from tfmp._support.advice import Adviser
from tfmp.callbacks import ScaleMonitor, TerminateOnOverflow
from tfmp.optimizers import LossScaleOptimizer

BATCH = 8
rng = np.random.default_rng(0)
X = rng.normal(size=[32, 4, 16]).astype("float32")
Y = rng.normal(size=[32, 4, 16]).astype("float32")
FP8 = policies.Policy("mixed_float8")
ATTENTION = policies.Policy(
    "mixed_float8", recipes.CurrentScaling(attention=True)
)


def make_model(**options):
    """One of each kind of layer: shared, in a loop, attending, frozen."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([4, 16])
    shared = layers.Dense(16, "tanh", dtype=FP8, name="shared")
    x = shared(shared(inputs))
    each = layers.Dense(16, dtype=FP8, name="each")
    x = keras.layers.TimeDistributed(each, name="steps")(x)
    attention = layers.MultiHeadAttention(2, 16, dtype=ATTENTION, name="attend")
    x = keras.layers.add([x, attention(x, x)])
    x = layers.Conv1D(16, 3, padding="same", dtype=FP8, name="conv")(x)
    frozen = layers.Dense(16, dtype=FP8, name="frozen", trainable=False)
    model = keras.Model(inputs, frozen(x), name="net")
    model.compile(
        LossScaleOptimizer("sgd", initial_scale=4.0), "mse", **options
    )
    return model


def fit(model, *monitors, x=X, y=Y, **options):
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return model.fit(x, y, callbacks=list(monitors), **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Twice the same training, with a monitor and without."""
    folder = tmp_path_factory.mktemp("logs")
    monitored, alone = make_model(), make_model()
    monitor = ScaleMonitor(folder, every=1, elements=None)
    fit(monitored, monitor)
    fit(alone)
    lines = (folder / "scales.jsonl").read_text().splitlines()
    return monitored, alone, monitor, [json.loads(line) for line in lines]


@pytest.mark.slow
def test_training_is_the_same(runs):
    monitored, alone, _, _ = runs
    for one, other in zip(monitored.weights, alone.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.slow
def test_training_under_xla_is_the_same():
    keras.utils.set_random_seed(1)
    first = small(jit_compile=True)
    second = small(jit_compile=True)
    second.set_weights(first.get_weights())
    fit(first, ScaleMonitor(every=2), x=X[:, 0], y=Y[:, 0])
    fit(second, x=X[:, 0], y=Y[:, 0])
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.slow
def test_every_tensor_of_every_operator_is_measured(runs):
    _, _, monitor, _ = runs
    roles = {
        f"{layer}/{role}"
        for layer in (
            "shared",
            "steps/each",
            "conv",
            "attend/scores",
            "attend/values",
            "attend/query",
            "attend/key",
            "attend/value",
            "attend/attention_output",
        )
        for role in recipes.ROLES
    }
    # No gradient reaches the kernel of a frozen layer, but its input.
    roles |= {f"frozen/{role}" for role in recipes.ROLES}
    assert not any(k.endswith("/sqnr") for k in monitor.samples[0])
    for sample in monitor.samples[1:]:  # the first builds and traces
        found = {k.removesuffix("/sqnr") for k in sample if k.endswith("/sqnr")}
        assert {name.removeprefix("net/") for name in found} == roles


@pytest.mark.slow
def test_values_are_those_of_the_batch(runs):
    monitored, _, monitor, lines = runs
    sample, previous = monitor.samples[3], monitor.samples[2]
    x = tf.cast(X[3 * BATCH :], "bfloat16")
    name, target = "frozen/kernel", formats.get("E4M3")
    kernel = tf.convert_to_tensor(monitored.get_layer("frozen").kernel.value)
    amax = scaling.amax(kernel)
    vector = statistics.measure(
        kernel, scaling.compute_scale(amax, target), target, amax
    )
    expected = statistics.describe(vector.numpy(), target)
    expected.pop("lag")  # a frozen layer scales by its own tensors
    for key, value in expected.items():
        assert sample[f"{name}/{key}"] == pytest.approx(value, rel=1e-5), key
    assert f"{name}/lag" not in sample
    _, counts = lines[3]["histograms"]["conv/inputs"]
    assert sum(counts) == BATCH * 4 * 16
    # A shared layer is measured in both calls.
    _, counts = lines[3]["histograms"]["shared/inputs"]
    assert sum(counts) == 2 * BATCH * 4 * 16
    seen = float(tf.reduce_max(tf.abs(x)))
    assert sample["shared/inputs/observed_amax"] == seen
    best = float(scaling.compute_scale(seen, target))
    lag = math.log2(previous["shared/inputs/scale"] / best)
    assert sample["shared/inputs/lag"] == lag


@pytest.mark.slow
def test_nothing_stays_behind(runs):
    monitored, _, monitor, _ = runs
    for layer in monitored._flatten_layers():
        assert not getattr(layer, "float8_probes", None)
    assert monitored.optimizer.update_probes == ()
    function = monitored.train_function
    assert not isinstance(getattr(function, "__self__", None), MeasuredStep)
    measured = monitor._sampler._measuring
    fit(monitored, monitor)
    assert monitor._sampler._measuring is measured  # compiled once
    assert monitored.train_function is function
    assert len(monitor.samples) == 8


def small(optimizer=None, policy=FP8, **options):
    model = keras.Sequential(
        [keras.Input([16]), layers.Dense(16, dtype=policy, name="only")],
        name="net",
    )
    if optimizer is None:
        optimizer = LossScaleOptimizer("sgd", initial_scale=4.0)
    model.compile(optimizer, "mse", **options)
    return model


@pytest.mark.slow
def test_two_monitors_and_another_callback_that_stands_before(tmp_path):
    model = small()
    often, seldom = ScaleMonitor(every=1), ScaleMonitor(tmp_path, every=4)
    x = X[:, 0].copy()
    x[2 * BATCH :] = np.inf  # two good steps, and two that are skipped
    fit(model, often, seldom, TerminateOnOverflow(4), x=x, y=Y[:, 0], epochs=1)
    name = "net/only/kernel/sqnr"
    assert [name in s for s in often.samples].count(True) >= 2
    assert [s["step"] for s in seldom.samples] == [4]
    assert often.samples[-1]["skipped_steps"] == 2
    fit(model, often, seldom, x=X[:, 0], y=Y[:, 0], epochs=2)
    assert len(often.samples) == 12


def test_an_error_in_training_leaves_no_probe():
    class Fault(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = small()
    with pytest.raises(KeyboardInterrupt):
        fit(model, ScaleMonitor(every=1), Fault(), x=X[:, 0], y=Y[:, 0])
    assert not model.layers[0].float8_probes
    fit(model, x=X[:, 0], y=Y[:, 0])
    assert int(model.optimizer.iterations) == 5


@pytest.mark.slow
def test_a_model_that_is_compiled_again_is_measured_again():
    model, monitor = small(run_eagerly=True), ScaleMonitor(every=4)
    fit(model, monitor, x=X[:, 0], y=Y[:, 0])
    model.compile(LossScaleOptimizer("sgd"), "mse", run_eagerly=True)
    fit(model, monitor, x=X[:, 0], y=Y[:, 0])
    assert all("net/only/inputs/sqnr" in s for s in monitor.samples)
    assert len(monitor.samples) == 2


def test_steps_of_an_execution_are_merged(tmp_path):
    model = small(steps_per_execution=2)
    fit(model, ScaleMonitor(tmp_path, every=2), x=X[:, 0], y=Y[:, 0])
    line = json.loads((tmp_path / "scales.jsonl").read_text().splitlines()[1])
    assert sum(line["histograms"]["net/only/inputs"][1]) == 2 * BATCH * 16


class Lazy(keras.Model):
    """Its first step builds one of its layers."""

    def __init__(self):
        super().__init__()
        self.only = layers.Dense(16, dtype=FP8, name="only")
        self.unused = layers.Dense(16, dtype=FP8)

    def call(self, x):
        return self.only(x)


def test_a_model_that_is_built_by_its_first_step():
    model = Lazy()
    model.compile("sgd", "mse", run_eagerly=True)
    monitor = ScaleMonitor(every=1)
    fit(model, monitor, x=X[:, 0], y=Y[:, 0])
    found = ["only/inputs/sqnr" in str(s) for s in monitor.samples]
    assert found == [False, True, True, True]


class Branch(keras.layers.Layer):
    """Runs a layer in a branch of `tf.cond`."""

    def __init__(self):
        super().__init__(name="branch")
        self.inner = layers.Dense(16, dtype=FP8, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        much = tf.reduce_sum(x) > -1e9
        return tf.cond(much, lambda: self.inner(x), lambda: 0 * self.inner(x))


def test_a_branch_is_measured_in_its_gradient_too(tmp_path):
    model = keras.Sequential([keras.Input([16]), Branch()], name="net")
    model.compile("sgd", "mse", jit_compile=False)
    monitor = ScaleMonitor(tmp_path, every=2, elements=None)
    fit(model, monitor, x=X[:16, 0], y=Y[:16, 0])
    [line] = (tmp_path / "scales.jsonl").read_text().splitlines()
    counts = json.loads(line)["histograms"]
    name = "net/branch/inner"
    for role, size in {"inputs": 128, "kernel": 256, "grads": 128}.items():
        assert sum(counts[f"{name}/{role}"][1]) == size


class Decorated(keras.Sequential):
    """Has a `tf.function` of its own, which keeps its first trace."""

    @tf.function
    def call(self, *args, **kwargs):
        return super().call(*args, **kwargs)


def test_a_function_of_ones_own_is_not_measured_and_that_is_said():
    model = Decorated([keras.Input([16]), layers.Dense(16, dtype=FP8)])
    model.compile("sgd", "mse", run_eagerly=True)
    monitor = ScaleMonitor(every=1, elements=None)
    fit(model, monitor, x=X[:, 0], y=Y[:, 0])
    assert not any("sqnr" in name for name in monitor.samples[-1])
    [said] = monitor.findings
    assert said.startswith("Nothing was measured: the layers are not called ")
    for probe in monitor._sampler._measuring._probes.values():
        assert probe.read("delayed")["inputs"] == {}  # nothing stays inside


def test_one_batch_after_another():
    model, monitor = small(run_eagerly=True), ScaleMonitor(every=2)
    callbacks = keras.callbacks.CallbackList([monitor], model=model, steps=4)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for batch in range(4):
        if batch == 1:
            model.compile("sgd", "mse", run_eagerly=True)
        callbacks.on_train_batch_begin(batch)
        model.train_on_batch(X[:, 0], Y[:, 0])
        callbacks.on_train_batch_end(batch)
    callbacks.on_train_end()
    found = ["net/only/inputs/sqnr" in s for s in monitor.samples]
    assert found == [True, True]
    model.train_on_batch(X[:, 0], Y[:, 0])


def test_two_attentions_of_one_path_have_two_names():
    def attend():
        inputs = keras.Input([4, 16])
        kind = {"dtype": ATTENTION, "name": "attend"}
        outputs = layers.MultiHeadAttention(1, 16, **kind)(inputs, inputs)
        return keras.Model(inputs, outputs)

    model = keras.Sequential([keras.Input([4, 16]), attend(), attend()])
    found = operators(model)
    assert {"attend/scores", "attend/scores_1"} <= found.keys()
    assert len(found) == 12


def test_without_statistics_no_step_is_another(tmp_path):
    model = small(run_eagerly=True)
    monitor = ScaleMonitor(tmp_path, every=1, statistics=False)
    fit(model, monitor, x=X[:, 0], y=Y[:, 0])
    assert monitor._sampler._measuring is None
    assert not any("sqnr" in name for name in monitor.samples[-1])


@pytest.mark.parametrize(
    ("learning_rate", "low", "high"), [(1e-7, 0.9, 1.0), (1.0, 0.0, 0.5)]
)
def test_updates_lost_to_rounding(learning_rate, low, high):
    sgd = keras.optimizers.SGD(learning_rate)
    model = small(
        LossScaleOptimizer(sgd), policies.Policy("bfloat16"), run_eagerly=True
    )
    monitor = ScaleMonitor(every=1, elements=None)
    fit(model, monitor, x=X[:, 0], y=Y[:, 0])
    shares = [s["lost_updates_share"] for s in monitor.samples[1:]]
    assert len(shares) == 3 and all(low <= share <= high for share in shares)
    said = [text for text in monitor.findings if "lost to rounding" in text]
    assert len(said) == (low > 0.5)


def test_float32_variables_lose_no_update():
    model, monitor = small(run_eagerly=True), ScaleMonitor(every=4)
    fit(model, monitor, x=X[:, 0], y=Y[:, 0])
    assert "lost_updates_share" not in monitor.samples[0]


def test_skipped_steps_lose_nothing():
    model = small(policy=policies.Policy("bfloat16"), run_eagerly=True)
    monitor = ScaleMonitor(every=4)
    fit(model, monitor, x=np.full([16, 16], np.inf), y=Y[:16, 0])
    assert math.isnan(monitor.samples[0]["lost_updates_share"])


def test_an_outlier_is_said_in_words():
    x = 1e-6 * X[:, 0]
    x[:, 0] = 100.0  # a channel
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(1e-9))
    model, monitor = small(optimizer, run_eagerly=True), ScaleMonitor(every=1)
    with pytest.warns(RuntimeWarning, match="of inputs underflow") as caught:
        model.fit(x, Y[:, 0], BATCH, verbose=0, callbacks=[monitor])
    (said,) = [w for w in caught if "underflow" in str(w.message)]
    assert str(said.message).startswith("Step 3:\nnet/only: 94% of inputs ")
    assert monitor.findings[0] == (
        "net/only: 94% of inputs underflow to zero; the range of FP8 is too "
        "narrow for them: use tfmp.set_precision(model, "
        "{'net/only': 'mixed_bfloat16'})"
    )


def test_advice_needs_patience_and_is_given_once():
    adviser = Adviser()
    bad = {"a/b/grads/underflow_share": 0.41, "a/b/grads/lag": -6.0}
    good = {"a/b/grads/underflow_share": 0.01, "a/b/grads/lag": 0.0}
    assert adviser.look(bad) == []
    assert adviser.look(good) == []
    assert adviser.look(bad) == []
    assert adviser.look({}) == []  # a sample of which nothing was measured
    [said] = adviser.look(bad)
    assert said.startswith("a/b: 41% of gradients underflow to zero; ")
    assert "amax_history_len" in said
    assert adviser.look(bad) == []
    little = {"a/b/inputs/saturation_share": 0.02, "a/b/inputs/sqnr": 25.0}
    assert adviser.look(little) == adviser.look(little) == []
    clipped = {**little, "a/b/inputs/sqnr": 3.0, "a/b/inputs/lag": 3.0}
    noisy = {"a/b/kernel/sqnr": 3.0, "a/c/kernel/sqnr": math.nan}
    adviser.look({**clipped, **noisy})
    said = adviser.look({**clipped, **noisy})
    assert ["2.0% of inputs are clipped" in said[0], len(said)] == [True, 2]
    assert said[1].startswith("a/b: the SQNR of kernel values is only 3 dB")
    attention = {"a/scores/inputs/sqnr": 3.0}
    adviser.look(attention)
    [said] = adviser.look(attention)
    assert "{'a': 'mixed_bfloat16'}" in said


def test_a_training_that_only_skips_is_told_what_to_do():
    x = np.full([64, 16], np.inf, np.float32)
    model, monitor = small(run_eagerly=True), ScaleMonitor(every=2)
    fit(model, monitor, x=x, y=np.zeros([64, 16]))
    (said,) = monitor.findings
    assert said.startswith("Every step since the last sample was skipped")
    adviser = Adviser()
    assert adviser.look_at_training(16, 0, 1.0) == []
    assert adviser.look_at_training(32, 15, 1.0) == []
    assert adviser.look_at_training(48, 31, math.inf) == []
    assert len(adviser.look_at_training(64, 47, math.nan)) == 2


def test_history_has_nan_where_no_step_was_measured():
    data = tf.data.Dataset.from_tensor_slices((X[:, 0], Y[:, 0])).batch(BATCH)
    data = data.filter(lambda x, y: True)  # of unknown length
    model, monitor = small(run_eagerly=True), ScaleMonitor(every=7)
    history = fit(model, monitor, x=data, y=None, batch_size=None, epochs=2)
    values = history.history["net/only/inputs/sqnr"]
    assert math.isnan(values[0]) and values[1] > 20
    assert len(history.history["loss_scale"]) == len(values) == 2
