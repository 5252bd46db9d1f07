"""tfmp.callbacks.ScaleMonitor, in real training and with real files."""

import json
import math
import os
import pathlib
import resource
import shutil
import types
import warnings

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from tfmp import callbacks, layers, policies, recipes
from tfmp._core import scaling
from tfmp._monitoring.sample_log import Sample, SampleLog
from tfmp._monitoring.state_reader import StateReader
from tfmp._monitoring.step_count import steps_taken
from tfmp._monitoring.step_loss import StepLoss
from tfmp.callbacks import ScaleMonitor, scale_monitor
from tfmp.conversion import convert
from tfmp.optimizers import LossScaleOptimizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATHS = ("net/hidden", "net/head")
ENTRIES = [
    f"{path}/{role}/{what}"
    for path in PATHS
    for role in recipes.ROLES
    for what in ("amax", "scale")
]
MEASURED = [
    f"{path}/{role}/{what}"
    for path in PATHS
    for role in recipes.ROLES
    for what in (
        "observed_amax",
        "underflow_share",
        "saturation_share",
        "sqnr",
        "range_share",
        "lag",
    )
]
OF_OPTIMIZER = ["loss_scale", "skipped_steps", "overflow_count"]
MORE = ("logs", "histograms", "findings")
HEAD = ["step", "epoch", "time"]
BATCH, STEPS = 4, 12
MAX = {"inputs": 448.0, "kernel": 448.0, "grads": 57344.0}

rng = np.random.default_rng(0)
X = rng.normal(size=[BATCH * STEPS, 8]).astype("float32")
Y = rng.normal(size=[BATCH * STEPS, 1]).astype("float32")


def make_model(optimizer=None, recipe="delayed", **options):
    policy = policies.Policy("mixed_float8", recipe)
    model = keras.Sequential(
        [
            keras.Input([8]),
            layers.Dense(16, "relu", dtype=policy, name="hidden"),
            layers.Dense(1, dtype=policy, name="head"),
        ],
        name="net",
    )
    if optimizer is None:
        optimizer = LossScaleOptimizer("sgd", initial_scale=64.0)
    model.compile(optimizer, "mse", **options)
    return model


def make_plain(optimizer=None):
    """Has no FP8, and so trains within milliseconds."""
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(1)])
    if optimizer is None:
        optimizer = LossScaleOptimizer("sgd", initial_scale=64.0)
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


def fit(model, monitor, *more, x=X, y=Y, **options):
    options = {"batch_size": BATCH, "verbose": 0, **options}
    with warnings.catch_warnings():
        # Models of a few random weights: what is said of them is no fault.
        warnings.filterwarnings("ignore", "Step ", RuntimeWarning)
        return model.fit(x, y, callbacks=[monitor, *more], **options).history


def fit_plain(model, monitor, *more, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return fit(model, monitor, *more, **options)


def steps_of(monitor):
    return [sample["step"] for sample in monitor.samples]


def read_lines(folder):
    text = (folder / "scales.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def read_samples(folder):
    """Returns the lines without what a sample in memory does not have."""
    return [
        {name: value for name, value in line.items() if name not in MORE}
        for line in read_lines(folder)
    ]


def read_scalars(folder):
    """Returns {tag: {step: value}} of what TensorBoard would show."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def read(reader):
    return reader.named(reader.reading().numpy())


def scale_by_hand(amax, role, margin=0):
    return 2.0 ** (math.floor(math.log2(MAX[role] / amax)) - margin)


class Spy(keras.callbacks.Callback):
    """Reads each variable by itself, after each batch."""

    def __init__(self):
        super().__init__()
        self.amax, self.logs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.amax.append(
            {
                path: keras.ops.convert_to_numpy(layer.amax)
                for path, layer in zip(PATHS, self.model.layers, strict=True)
            }
        )

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training of 2 epochs of 12 steps, among Keras' own callbacks."""
    folder = tmp_path_factory.mktemp("logs")
    model, spy = make_model(), Spy()
    monitor = ScaleMonitor(folder, every=5)
    own = keras.callbacks
    history = fit(
        model,
        monitor,
        spy,
        # This one switches recording off at most steps.
        own.TensorBoard(folder, update_freq=7),
        own.ModelCheckpoint(folder / "model.keras"),
        own.EarlyStopping("loss", patience=5, restore_best_weights=True),
        epochs=2,
    )
    return types.SimpleNamespace(
        model=model, monitor=monitor, spy=spy, history=history, folder=folder
    )


def test_samples_are_taken_at_multiples_and_ends_of_epochs(run):
    assert steps_of(run.monitor) == [5, 10, 12, 15, 20, 24]
    assert [s["epoch"] for s in run.monitor.samples] == [0, 0, 0, 1, 1, 1]
    times = [s["time"] for s in run.monitor.samples]
    assert times == sorted(times)
    for sample in run.monitor.samples:
        assert list(sample) == [*HEAD, *OF_OPTIMIZER, *ENTRIES, *MEASURED]


def test_amax_is_that_of_the_variables(run):
    for sample in run.monitor.samples:
        for path, amax in run.spy.amax[sample["step"] - 1].items():
            found = [sample[f"{path}/{role}/amax"] for role in recipes.ROLES]
            np.testing.assert_array_equal(found, amax)
            assert amax.min() > 0


def test_scales_are_those_computed_by_hand(run):
    for sample in run.monitor.samples:
        for path in PATHS:
            for role in recipes.ROLES:
                amax = sample[f"{path}/{role}/amax"]
                expected = scale_by_hand(amax, role)
                assert sample[f"{path}/{role}/scale"] == expected


def test_reading_was_traced_once(run):
    assert run.monitor._sampler.traces == 1


def test_history_has_the_ends_of_epochs(run):
    ends = [run.monitor.samples[2], run.monitor.samples[5]]
    for name in (*OF_OPTIMIZER, *ENTRIES, *MEASURED):
        assert run.history[name] == [end[name] for end in ends]
    assert len(run.history["loss"]) == 2


def test_the_progress_bar_stays_as_it_is(run):
    assert [list(logs) for logs in run.spy.logs] == [["loss"], ["loss"]]


def test_lines_are_the_samples(run):
    assert read_samples(run.folder) == run.monitor.samples


def test_tensorboard_shows_the_samples(run):
    scalars = read_scalars(run.folder / "scales")
    assert sorted(scalars) == sorted([*OF_OPTIMIZER, *ENTRIES, *MEASURED])
    for name, series in scalars.items():
        expected = {s["step"]: s[name] for s in run.monitor.samples}
        assert series == pytest.approx(expected, rel=2**-23)


def test_tensorboard_shows_histograms_of_exponents(run):
    events = EventAccumulator(str(run.folder / "scales")).Reload()
    names = [f"{path}/{role}" for path in PATHS for role in recipes.ROLES]
    tags = [f"{name}/exponents" for name in names]
    assert sorted(events.Tags()["histograms"]) == sorted(tags)
    last = read_lines(run.folder)[-1]["histograms"]
    for name, tag in zip(names, tags, strict=True):
        event = events.Histograms(tag)[-1]
        lowest, counts = last[name]
        assert event.step == 24
        assert event.histogram_value.bucket == [0, *counts]
        assert event.histogram_value.bucket_limit[0] == lowest


def test_the_run_is_described(run):
    described = json.loads((run.folder / "run.json").read_text())
    assert described["model"] == "net" and described["every"] == 5
    assert described["tensors"]["net/head/grads"] == {
        "format": "E5M2",
        "scaling": "delayed",
    }
    assert len(described["tensors"]) == len(PATHS) * len(recipes.ROLES)


def test_logs_are_those_of_keras(run):
    lines = read_lines(run.folder)
    assert all({*line["logs"]} - {"step_loss"} == {"loss"} for line in lines)
    assert lines[2]["logs"]["loss"] == run.history["loss"][0]


def test_the_loss_of_a_step_is_that_of_its_batch(tmp_path):
    """Batches of 4, 4 and 2 whose losses are 1, 9 and 49."""
    x = np.repeat([1.0, 3.0, 7.0], [4, 4, 2])[:, None].astype("float32")
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input([1]), layer])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    monitor = callbacks.ScaleMonitor(tmp_path, every=1, statistics=False)
    with pytest.warns(RuntimeWarning, match="No layer"):
        model.fit(
            *(x, 0 * x, 4, 2),
            shuffle=False,
            verbose=0,
            callbacks=[monitor],
        )
    lines = read_lines(tmp_path)
    losses = [line["logs"].get("step_loss") for line in lines]
    assert losses[0] is None  # the step that may still build layers
    assert losses[1:4] == pytest.approx([9, 49, 1])


def test_after_a_loss_that_is_not_finite_those_of_its_epoch_are_unknown():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    losses = StepLoss(model)
    mean = keras.metrics.Mean("loss")
    model._loss_tracker = mean
    found = []
    for loss in (2.0, np.nan, 3.0):
        losses.begin()
        mean.update_state(loss)
        found.append(losses.end())
    assert found[0] == {"step_loss": 2.0} and found[2] == {}
    assert np.isnan(found[1]["step_loss"])


def test_other_callbacks_work_beside_it(run):
    train = EventAccumulator(str(run.folder / "train")).Reload()
    tags = train.Tags()["tensors"]
    assert "batch_loss" in tags
    assert not any("amax" in tag for tag in tags)
    loaded = keras.saving.load_model(run.folder / "model.keras")
    amax = keras.ops.convert_to_numpy(loaded.layers[0].amax)
    np.testing.assert_array_equal(amax, run.spy.amax[-1]["net/hidden"])


@pytest.mark.slow_but("False}")
@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}],
    ids=str,
)
def test_ways_to_run_a_step(options):
    monitor, spy = ScaleMonitor(every=2), Spy()
    fit(make_model(**options), monitor, spy, x=X[:12], y=Y[:12])
    assert steps_of(monitor) == [2, 3]
    for name in ("inputs", "kernel", "grads"):
        amax = spy.amax[-1]["net/head"][recipes.ROLES.index(name)]
        assert monitor.samples[-1][f"net/head/{name}/amax"] == amax


def test_steps_per_execution():
    monitor, spy = ScaleMonitor(every=3), Spy()
    model = make_model(steps_per_execution=4)
    # 10 steps in executions of 4, 4 and 2.
    fit(model, monitor, spy, x=X[:40], y=Y[:40], epochs=2)
    assert steps_of(monitor) == [4, 8, 10, 14, 18, 20]
    assert int(model.optimizer.iterations) == 20
    seen = [s["net/hidden/grads/amax"] for s in monitor.samples]
    assert seen == [float(amax["net/hidden"][2]) for amax in spy.amax]


def test_executions_of_a_length_that_every_does_not_divide():
    monitor = ScaleMonitor(every=4)
    model = make_plain()
    model.steps_per_execution = 3
    fit_plain(model, monitor)
    # Steps 3, 6, 9 and 12: 4, 8 and 12 are passed in the last three.
    assert steps_of(monitor) == [6, 9, 12]


def test_epochs_shorter_than_every():
    monitor = ScaleMonitor()
    history = fit_plain(make_plain(), monitor, epochs=3)
    assert steps_of(monitor) == [12, 16, 24, 32, 36]
    assert history["loss_scale"] == [64.0] * 3


def test_a_dataset_of_unknown_length():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    data = data.filter(lambda x, y: True)
    monitor, model = ScaleMonitor(every=5), make_plain()
    options = {"batch_size": None, "shuffle": False, "epochs": 2}
    fit_plain(model, monitor, x=data, y=None, **options)
    assert steps_of(monitor) == [5, 10, 12, 15, 20, 24]


def test_a_second_fit_goes_on(tmp_path):
    monitor, model = ScaleMonitor(tmp_path, every=8), make_plain()
    first = fit_plain(model, monitor)
    second = fit_plain(model, monitor)
    assert first["loss_scale"] == second["loss_scale"] == [64.0]
    assert steps_of(monitor) == [8, 12, 16, 24]
    assert read_samples(tmp_path) == monitor.samples
    scalars = read_scalars(tmp_path / "scales")["loss_scale"]
    assert sorted(scalars) == steps_of(monitor)
    fit_plain(make_plain(), monitor)
    assert steps_of(monitor) == [8, 12]
    assert len(read_lines(tmp_path)) == 6


def test_a_new_monitor_starts_where_the_optimizer_is():
    model = make_plain()
    fit_plain(model, ScaleMonitor())
    monitor = ScaleMonitor(every=10)
    fit_plain(model, monitor)
    assert steps_of(monitor) == [20, 24]


def test_restored_training_goes_on(tmp_path):
    class Fault(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        fit_plain(
            make_plain(), ScaleMonitor(tmp_path), backup(), Fault(), epochs=2
        )
    assert [line["step"] for line in read_lines(tmp_path)] == [12]
    fit_plain(make_plain(), ScaleMonitor(tmp_path), backup(), epochs=2)
    assert [line["step"] for line in read_lines(tmp_path)] == [12, 16, 24]
    assert [line["epoch"] for line in read_lines(tmp_path)] == [0, 1, 1]


def test_skipped_steps_are_counted():
    x = X.copy()
    x[BATCH] = np.inf
    model, monitor = make_plain(), ScaleMonitor(every=1)
    history = fit_plain(model, monitor, x=x, shuffle=False)
    assert [s["skipped_steps"] for s in monitor.samples] == [0] + [1] * 11
    assert [s["loss_scale"] for s in monitor.samples] == [64.0] + [32.0] * 11
    assert history["skipped_steps"] == [1]
    assert isinstance(history["skipped_steps"][0], int)
    assert steps_taken(model.optimizer) == STEPS


def test_gradient_accumulation_counts_batches():
    inner = keras.optimizers.SGD(gradient_accumulation_steps=3)
    model = make_plain(LossScaleOptimizer(inner))
    fit_plain(model, ScaleMonitor())
    assert steps_taken(model.optimizer) == STEPS


def test_steps_of_an_optimizer_without_a_count():
    assert steps_taken(None) == 0


def test_a_stock_optimizer_has_the_tensors_only(tmp_path):
    x = np.full_like(X[:8], np.inf)
    monitor = ScaleMonitor(tmp_path)
    history = fit(make_model("sgd"), monitor, x=x, y=Y[:8])
    assert sorted(history) == sorted([*ENTRIES, *MEASURED, "loss"])
    (sample,) = monitor.samples
    # An infinite amax is no observation: the scale comes from the prior.
    prior = scaling.PRIOR_AMAX["inputs", "E4M3"]
    assert sample["net/hidden/inputs/amax"] == 0.0
    assert sample["net/hidden/inputs/scale"] == scale_by_hand(prior, "inputs")
    seen = "net/hidden/inputs/observed_amax"
    assert sample[seen] == math.inf
    assert read_lines(tmp_path)[0][seen] is None
    assert read_scalars(tmp_path / "scales")[seen] == {2: math.inf}


def test_the_optimizer_of_keras_has_a_loss_scale_only():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(), initial_scale=16.0
    )
    monitor = ScaleMonitor()
    fit_plain(make_plain(optimizer), monitor)
    assert list(monitor.samples[0]) == [*HEAD, "loss_scale"]
    assert monitor.samples[0]["loss_scale"] == 16.0


def test_the_callbacks_of_keras_work_together(tmp_path):
    own = keras.callbacks
    optimizer = keras.optimizers.SGD(1e-3, use_ema=True)
    model = make_model(LossScaleOptimizer(optimizer), run_eagerly=True)
    monitor = ScaleMonitor(tmp_path / "logs", every=2)
    fit(
        model,
        own.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
        own.LearningRateScheduler(lambda epoch: 1e-3 / (epoch + 1)),
        own.TerminateOnNaN(),
        monitor,
        own.ReduceLROnPlateau("loss"),
        own.SwapEMAWeights(swap_on_epoch=True),
        own.CSVLogger(tmp_path / "log.csv"),
        callbacks.TerminateOnOverflow(4),
        callbacks.BackupAndRestore(tmp_path / "backup"),
        x=X[: 4 * BATCH],
        y=Y[: 4 * BATCH],
        epochs=2,
    )
    assert steps_of(monitor) == [2, 4, 6, 8]
    assert all("net/head/grads/sqnr" in s for s in monitor.samples)
    head = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert head.startswith("epoch,learning_rate,loss") and "net" not in head


def test_a_model_without_float8_is_warned_of_once(tmp_path):
    monitor, model = ScaleMonitor(tmp_path), make_plain("sgd")
    with pytest.warns(RuntimeWarning, match="runs in FP8") as caught:
        history = fit(model, monitor)
        fit(model, monitor)
    assert len([w for w in caught if "FP8" in str(w.message)]) == 1
    assert list(history) == ["loss"]
    assert list(monitor.samples[0]) == HEAD


def test_roles_and_layers_that_have_no_scale():
    recipe = recipes.DelayedScaling(
        margin=2, current=("kernel",), high_precision=("kernel_grad",)
    )
    model = make_model(recipe=recipe)
    model.layers[1].trainable = False
    reader = StateReader(model)
    observed = [("inputs", "amax"), ("inputs", "scale"), ("kernel", "amax")]
    observed += [("grads", "amax"), ("grads", "scale")]
    frozen = [entry for entry in observed if entry[1] == "amax"]
    assert list(reader.names) == [
        *(f"net/hidden/{role}/{what}" for role, what in observed),
        *(f"net/head/{role}/{what}" for role, what in frozen),
    ]
    model.layers[0].float8.assume([3.0, 5.0, 0.0])
    values = read(reader)
    assert values["net/hidden/inputs/amax"] == 3.0
    assert values["net/hidden/inputs/scale"] == scale_by_hand(3, "inputs", 2)
    assert values["net/hidden/kernel/amax"] == 5.0
    assert values["net/hidden/grads/amax"] == 0.0
    prior = scaling.PRIOR_AMAX["grads", "E5M2"]
    assert values["net/hidden/grads/scale"] == scale_by_hand(prior, "grads", 2)


def test_a_role_that_is_not_quantized_is_left_out():
    forward_only = recipes.DelayedScaling(
        high_precision=("input_grad", "kernel_grad")
    )
    names = StateReader(make_model(recipe=forward_only)).names
    assert names and not any("grads" in name for name in names)
    nothing = recipes.DelayedScaling(high_precision=recipes.PRODUCTS)
    reader = StateReader(make_model(recipe=nothing))
    assert reader.names == () and read(reader) == {}


def test_layers_of_the_same_path():
    dense = [layers.Dense(2, dtype="mixed_float8", name="d") for _ in range(3)]
    for layer in dense:
        layer.build([None, 2])
    paths = {layer.float8.variable.path for layer in dense}
    assert paths == {"d/float8/amax"}
    model = keras.Sequential([keras.Sequential([layer]) for layer in dense])
    model.build([None, 2])
    for number, layer in enumerate(dense, start=1):
        layer.float8.assume([number, number, number])
    reader = StateReader(model)
    assert len(set(reader.names)) == len(reader.names) == 18
    values = read(reader)
    found = [v for k, v in values.items() if k.endswith("inputs/amax")]
    assert found == [1.0, 2.0, 3.0]


def test_samples_are_bounded(monkeypatch):
    monkeypatch.setattr(scale_monitor, "MAX_SAMPLES", 5)
    monitor = ScaleMonitor(every=1)
    fit_plain(make_plain(), monitor)
    assert steps_of(monitor) == [8, 9, 10, 11, 12]


def test_a_history_before_it_gets_the_values_too():
    history, monitor = keras.callbacks.History(), ScaleMonitor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        make_plain().fit(X, Y, verbose=0, callbacks=[history, monitor])
    assert history.history["loss_scale"] == [64.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "`every` must be 1 or more.*Received: 0"),
        ({"every": 1.5}, TypeError, "`every` must be an integer.*Received"),
        ({"every": True}, TypeError, "`every` must be an integer.*Received"),
        ({"log_dir": 3}, TypeError, "`log_dir` must be a path.*Received: 3"),
        ({"log_dir": b"x"}, TypeError, "`log_dir` must be a path.*Received"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        ScaleMonitor(**arguments)


def test_a_folder_that_cannot_be_written_to_stops_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    model = make_plain()
    with pytest.raises(ValueError, match=r"`log_dir` must be .*/file/logs'"):
        fit(model, ScaleMonitor(str(tmp_path / "file" / "logs")))
    assert int(model.optimizer.iterations) == 0


class FullDisk(keras.callbacks.Callback):
    """Lets no file grow beyond a size, in the first epoch."""

    limit = 900

    def on_epoch_begin(self, epoch, logs=None):
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = self.limit if epoch == 0 else most
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))


@pytest.fixture
def restore_limit():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_training_outlives_a_full_disk(tmp_path, restore_limit):
    model, monitor = make_plain(), ScaleMonitor(tmp_path, every=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, monitor, FullDisk(), epochs=2)
    faults = [w for w in caught if "lost samples" in str(w.message)]
    assert len(faults) == 1 and "Training goes on" in str(faults[0].message)
    assert int(model.optimizer.iterations) == 2 * STEPS
    written = [line["step"] for line in read_lines(tmp_path)]
    before = [step for step in written if step <= STEPS]
    # A shorter line may still have found room after a longer one did not.
    assert 1 <= len(before) < STEPS and before == sorted(set(before))
    # All of the second epoch, in both files.
    assert written[len(before) :] == list(range(STEPS + 1, 2 * STEPS + 1))
    scalars = read_scalars(tmp_path / "scales")["loss_scale"]
    assert sorted(scalars) == written
    assert steps_of(monitor) == list(range(1, 2 * STEPS + 1))


def test_tensorboard_reads_on_after_a_record_cut_in_two(
    tmp_path, restore_limit
):
    sample = Sample(1, 0, 0.0, {"loss_scale": 1.0})
    log = SampleLog(tmp_path)
    log.write(sample)
    (events,) = (tmp_path / "scales").iterdir()
    os.truncate(tmp_path / "scales.jsonl", 0)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = events.stat().st_size + 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    with pytest.raises((OSError, tf.errors.OpError)):
        for step in range(2, 50):
            log.write(sample._replace(step=step))
    assert events.stat().st_size == limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    log.write(sample._replace(step=50))
    log.close()
    scalars = read_scalars(tmp_path / "scales")["loss_scale"]
    assert sorted(scalars) == [1, 50]


class Deletes(keras.callbacks.Callback):
    """Deletes what the monitor writes, in the middle of the first epoch."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == STEPS // 2:
            remove = shutil.rmtree if self.path.is_dir() else os.remove
            remove(self.path)


@pytest.mark.parametrize("name", ["log", "log/scales.jsonl", "log/scales"])
def test_what_is_deleted_is_said_and_begun_anew(tmp_path, name):
    folder = tmp_path / "log"
    model, monitor = make_plain(), ScaleMonitor(folder, every=1)
    with pytest.warns(RuntimeWarning, match="deleted") as caught:
        fit(model, monitor, Deletes(tmp_path / name), epochs=2)
    assert len([w for w in caught if "lost samples" in str(w.message)]) == 1
    after = list(range(STEPS // 2 + 1, 2 * STEPS + 1))
    every = list(range(1, 2 * STEPS + 1))
    lines = [line["step"] for line in read_lines(folder)]
    assert lines == (every if name == "log/scales" else after)
    scalars = read_scalars(folder / "scales")["loss_scale"]
    assert sorted(scalars) == (every if name.endswith("jsonl") else after)
    assert (folder / "run.json").is_file()


def test_a_line_cut_in_two_spoils_no_other(tmp_path):
    sample = Sample(1, 0, 0.0, {"loss_scale": 1.0})
    (tmp_path / "scales.jsonl").write_text('{"step": ')
    log = SampleLog(tmp_path)
    log.write(sample)
    log.write(sample._replace(step=2))
    log.close()
    first, *rest = (tmp_path / "scales.jsonl").read_text().splitlines()
    assert first == '{"step": '
    assert [json.loads(line)["step"] for line in rest] == [1, 2]


MIRRORED = """
import json, sys, keras, numpy as np, tensorflow as tf
import test_scale_monitor as t
from tfmp.callbacks import ScaleMonitor
cpu = tf.config.list_physical_devices("CPU")[0]
logical = tf.config.LogicalDeviceConfiguration
tf.config.set_logical_device_configuration(cpu, [logical(), logical()])
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = t.make_model()
monitor = ScaleMonitor(sys.argv[1], every=2)
history = t.fit(model, monitor, x=t.X[:16], y=t.Y[:16])
with strategy.scope():
    t.fit(model, monitor, x=t.X[:4], y=t.Y[:4])
assert t.steps_of(monitor) == [2, 4, 5], t.steps_of(monitor)
names = [*t.OF_OPTIMIZER, *t.ENTRIES, *t.MEASURED, "loss"]
assert sorted(history) == sorted(names)
sample = monitor.samples[-1]
for path, layer in zip(t.PATHS, model.layers):
    copies = strategy.run(lambda: layer.amax)
    copies = strategy.experimental_local_results(copies)
    assert len(copies) == 2
    for copy in copies:
        found = [sample[f"{path}/{role}/amax"] for role in t.recipes.ROLES]
        np.testing.assert_array_equal(found, copy.numpy())
assert sample["loss_scale"] == 64.0
assert sample["skipped_steps"] == 0
# Both replicas were looked at: 2 of 4 rows each.
seen = json.loads(open(f"{sys.argv[1]}/scales.jsonl").readline())
counts = seen["histograms"]["net/hidden/inputs"][1]
assert sum(counts) == 4 * 8, counts
"""


@pytest.mark.slow
def test_two_replicas(tmp_path):
    path = (ROOT, ROOT / "tests")
    done = forked.run(MIRRORED, str(tmp_path), path=path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4, 5]


def test_float16_is_no_lack_of_fp8():
    """Its loss scale is what one looks for there."""
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    convert(model, "mixed_float16", filter="all")
    model.compile("sgd", "mse")
    x, monitor = np.ones([8, 4]), ScaleMonitor()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fit = model.fit(x, x[:, :1], verbose=0, callbacks=[monitor])
    assert "loss_scale" in fit.history
