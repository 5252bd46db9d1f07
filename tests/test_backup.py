"""`BackupAndRestore`: a run that was cut off ends as one that was not."""

from __future__ import annotations

import gc
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_checkpoints import same

from tfmp import checkpoints
from tfmp.callbacks import BackupAndRestore, PrecisionScheduler

pytestmark = pytest.mark.filterwarnings("ignore:Kill goes on without")

ROOT = pathlib.Path(__file__).resolve().parent.parent
EPOCHS, STEPS, BATCH = 3, 6, 4
X = np.random.default_rng(0).normal(size=[STEPS * BATCH, 4]).astype("float32")
DATASET = tf.data.Dataset.from_tensor_slices((X, X[:, :1]))


class Killed(Exception):
    """Ends a `fit` where it stands."""


class Kill(keras.callbacks.Callback):
    """Ends a `fit` before or after a batch; notes the batches that begin."""

    def __init__(self, epoch=None, batch=None, before=True):
        super().__init__()
        self.moment, self.before = (epoch, batch), before
        self.batches = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.before and (self.epoch, batch) == self.moment:
            raise Killed
        self.batches.append((self.epoch, batch))

    def on_train_batch_end(self, batch, logs=None):
        if not self.before and (self.epoch, batch) == self.moment:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, "end") == self.moment:
            raise Killed


def data(kind):
    """The arguments of `fit` for each kind of data."""
    shuffled = DATASET.shuffle(STEPS * BATCH, seed=1)
    return {
        "arrays": {"x": X, "y": X[:, :1], "shuffle": False},
        "shuffled arrays": {"x": X, "y": X[:, :1]},
        "dataset": {"x": DATASET.batch(BATCH)},
        "shuffled dataset": {"x": shuffled.batch(BATCH)},
        "unknown length": {"x": shuffled.filter(lambda *_: True).batch(BATCH)},
        "endless": {
            "x": shuffled.batch(BATCH).repeat(),
            "steps_per_epoch": STEPS - 1,
        },
        "longer than an epoch": {
            "x": shuffled.batch(BATCH),
            "steps_per_epoch": STEPS // 2,
        },
    }[kind]


def make(steps_per_execution=1):
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        "mse",
        metrics=["mae"],
        steps_per_execution=steps_per_execution,
        jit_compile=False,
    )
    return model


def fit(model, kind, *callbacks, initial_epoch=0):
    """Trains with validation and a rate that depends on the one before."""
    keras.utils.set_random_seed(0)
    rate = keras.callbacks.LearningRateScheduler(lambda _, rate: rate * 0.9)
    given = {"batch_size": BATCH} if "arrays" in kind else {}
    return model.fit(
        **data(kind),
        **given,
        epochs=EPOCHS,
        initial_epoch=initial_epoch,
        verbose=0,
        validation_data=(X[:BATCH], X[:BATCH, :1]),
        callbacks=[rate, *callbacks],
    )


def values(model):
    return [np.array(v.numpy()) for v in checkpoints.variables(model)]


def start_again(model, initial):
    """Makes a model what it is in a new process, all but compiled."""
    for variable, value in zip(model.variables, initial, strict=True):
        variable.assign(value)
    for variable in model.optimizer.variables:
        variable.assign(tf.zeros_like(variable.value))
    model.optimizer.learning_rate = 0.01
    model.reset_metrics()
    return model


@pytest.fixture(autouse=True)
def free_iterators():
    """Frees, while they are young, those of a `fit` that was cut off.

    To free one may wait for its tuner, which sleeps as long as it has lived.
    """
    yield
    gc.collect()


@pytest.fixture(scope="module")
def trained():
    """A model with its initial values, and what `fit` makes of each data."""
    model = make()
    initial = [np.array(v.numpy()) for v in model.variables]
    results = {}

    def whole(kind):
        if kind not in results:
            history = fit(start_again(model, initial), kind)
            results[kind] = values(model), history.history
        return results[kind]

    return model, initial, whole


def cut_off(trained, kind, kill, backup, tmp_path):
    """Trains until `kill`, then to the end; returns `History` and batches."""
    model, initial, _ = trained
    with pytest.raises(Killed):
        fit(start_again(model, initial), kind, backup(tmp_path / "b"), kill)
    start_again(model, [value + 1 for value in initial])
    seen = Kill()
    return fit(model, kind, backup(tmp_path / "b"), seen), seen.batches


def every(save_freq, **arguments):
    return lambda folder: BackupAndRestore(folder, save_freq, **arguments)


@pytest.mark.slow_but("arrays-2-", "dataset")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    ("kind", "save_freq", "kill"),
    [
        ("arrays", "epoch", (1, 2)),
        ("arrays", 2, (0, 2, False)),
        ("arrays", 1, (1, "end")),
        ("shuffled arrays", 2, (2, 2)),
        ("shuffled dataset", 2, (2, 2)),
        ("unknown length", 2, (2, 2)),
        ("unknown length", 1, (1, "end")),  # nothing of the epoch is left
        ("endless", 2, (2, 2)),
        ("endless", "epoch", (1, 2)),
        ("longer than an epoch", "epoch", (2, 2)),
    ],
)
def test_goes_on_bit_for_bit(trained, kind, save_freq, kill, tmp_path):
    model, _, whole = trained
    expected, history = whole(kind)
    result, _ = cut_off(trained, kind, Kill(*kill), every(save_freq), tmp_path)
    assert json.dumps(result.history) == json.dumps(history)
    assert result.epoch == list(range(EPOCHS))
    assert same(values(model), expected)
    assert not (tmp_path / "b").exists()


def test_trained_batches_are_not_trained_again(trained, tmp_path):
    _, batches = cut_off(trained, "arrays", Kill(1, 3), every(2), tmp_path)
    assert batches[0] == (1, 2) and len(batches) == 4 + STEPS
    _, batches = cut_off(
        trained, "arrays", Kill(1, 3), every("epoch"), tmp_path
    )
    assert batches[0] == (1, 0) and len(batches) == 2 * STEPS


@pytest.mark.slow
def test_steps_per_execution_in_a_new_model(tmp_path):
    """Metrics and optimizer of the second model are not built before."""
    first = make(steps_per_execution=4)
    initial = first.get_weights()
    history = fit(first, "dataset").history
    expected = values(first)
    models = make(4), make(4)
    models[0].set_weights(initial)
    with pytest.raises(Killed):
        fit(
            models[0],
            "dataset",
            BackupAndRestore(tmp_path / "b", 2),
            Kill(1, 4),
        )
    seen = Kill()
    result = fit(models[1], "dataset", BackupAndRestore(tmp_path / "b"), seen)
    assert seen.batches == [(1, 4), (2, 0), (2, 4)]
    assert result.history == history
    assert same(values(models[1]), expected)


def test_next_fit_starts_where_it_is_told(trained, tmp_path):
    """Keras starts it at the epoch that the last one was resumed at."""
    model, _, _ = trained
    cut_off(trained, "arrays", Kill(2, 0), every("epoch"), tmp_path)
    backup = BackupAndRestore(tmp_path / "b")
    assert fit(model, "arrays", backup).epoch == [0, 1, 2]
    assert fit(model, "arrays", backup, initial_epoch=1).epoch == [1, 2]


def test_initial_epoch(trained, tmp_path):
    model, initial, _ = trained
    fit(start_again(model, initial), "shuffled dataset", initial_epoch=1)
    expected = values(model)
    for kill in (Kill(2, 3), Kill()):
        backup = BackupAndRestore(tmp_path / "b", 2)
        start_again(model, initial)
        try:
            fit(model, "shuffled dataset", backup, kill, initial_epoch=1)
        except Killed:
            continue
    assert same(values(model), expected)


def test_after_the_last_epoch(trained, tmp_path):
    """Nothing is left to train: `fit` returns what the run ended with."""
    _, _, whole = trained
    keep = every("epoch", delete_checkpoint=False)
    result, batches = cut_off(trained, "arrays", Kill(2, "end"), keep, tmp_path)
    # Kill comes after the backup in the list: it was made.
    assert batches == [] and result.epoch == [0, 1, 2]
    assert result.history == whole("arrays")[1]
    assert (tmp_path / "b" / "latest.weights.h5").exists()


@pytest.mark.parametrize("double", [True, False])
def test_broken_backup(trained, tmp_path, double):
    model, initial, whole = trained
    backup = BackupAndRestore(tmp_path / "b", 2, double)
    with pytest.raises(Killed):
        fit(start_again(model, initial), "arrays", backup, Kill(1, 5))
    latest = tmp_path / "b" / "latest.weights.h5"
    content = bytearray(latest.read_bytes())
    content[-9] ^= 1
    latest.write_bytes(content)
    before = values(start_again(model, [value + 1 for value in initial]))
    if double:
        with pytest.warns(RuntimeWarning, match="from the one before.*SHA"):
            fit(model, "arrays", backup)
        assert same(values(model), whole("arrays")[0])
    else:
        with pytest.raises(ValueError, match=r"latest\.weights\.h5"):
            fit(model, "arrays", backup)
        assert same(values(model), before)
        assert latest.read_bytes() == content


def test_previous_alone(trained, tmp_path):
    """As if killed between the two renames of a double backup."""
    model, initial, whole = trained
    backup = BackupAndRestore(tmp_path / "b", 2, double_checkpoint=True)
    with pytest.raises(Killed):
        fit(start_again(model, initial), "arrays", backup, Kill(1, 5))
    (tmp_path / "b" / "latest.weights.h5").unlink()
    start_again(model, [value + 1 for value in initial])
    fit(model, "arrays", backup)
    assert same(values(model), whole("arrays")[0])


def test_backup_of_keras(trained, tmp_path):
    model, initial, _ = trained
    kept = keras.callbacks.BackupAndRestore(
        tmp_path / "b", delete_checkpoint=False
    )
    fit(start_again(model, initial), "arrays", kept)
    before = values(model)
    with pytest.raises(ValueError, match="which another callback has written"):
        fit(model, "arrays", BackupAndRestore(tmp_path / "b"))
    assert same(values(model), before)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"backup_dir": ""}, ValueError, "`backup_dir` must be a path"),
        ({"backup_dir": None}, ValueError, "`backup_dir` must be a path"),
        ({"backup_dir": 1}, TypeError, "`backup_dir` must be a path"),
        ({"save_freq": "batch"}, ValueError, "`save_freq` must be 'epoch'"),
        ({"save_freq": 0}, ValueError, "`save_freq` must be 'epoch'"),
        ({"save_freq": 0.5}, ValueError, "`save_freq` must be 'epoch'"),
        ({"save_freq": None}, ValueError, "`save_freq` must be 'epoch'"),
        ({"save_freq": False}, ValueError, "`save_freq` must be 'epoch'"),
        ({"double_checkpoint": 1}, TypeError, "`double_checkpoint`"),
        ({"delete_checkpoint": None}, TypeError, "`delete_checkpoint`"),
    ],
)
def test_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        BackupAndRestore(**{"backup_dir": "b", **arguments})


def test_what_comes_after_it_is_warned_of(trained, tmp_path):
    """That cannot take back what it knew: it begins `fit` too late."""
    model, initial, _ = trained
    start_again(model, initial)
    after = PrecisionScheduler({9: "float32"})
    said = "not the last of the callbacks.*, PrecisionScheduler will start"
    with pytest.warns(RuntimeWarning, match=said), pytest.raises(Killed):
        backup = BackupAndRestore(tmp_path / "b", 1)
        fit(model, "arrays", backup, after, Kill(0, 3))
    fit(start_again(model, initial), "arrays", backup)


@pytest.mark.slow
def test_killed_for_real(tmp_path):
    """The script that kills processes: an FP8 training, SIGKILL.

    In three trainings at least one, wherever it is by then.
    """
    out = tmp_path / "out.json"
    script = ROOT / "benchmarks" / "kill_and_resume.py"
    way = "tfmp BackupAndRestore, batches"
    flags = ["--tries=3", "--seed=6", "--way", way, "--out", out]
    subprocess.run(
        [sys.executable, script, *flags],
        check=True,
        timeout=300,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    row = json.loads(out.read_text())["ways"][way]
    assert row["kills"] >= 1 and row["identical"] == 3


def test_metrics_of_many_values(tmp_path):
    """`History` has them as lists, and a resumed epoch goes on with them."""
    whole = []
    for folder, kill in (("a", None), ("b", Kill(1, 3))):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input([4]), keras.layers.Dense(2, "sigmoid")]
        )
        metric = keras.metrics.F1Score(average=None, threshold=0.5)
        model.compile("sgd", "mse", metrics=[metric], jit_compile=False)
        y = (X[:, :2] > 0).astype("float32")
        options = dict(batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        backup = BackupAndRestore(tmp_path / folder, save_freq=2)
        if kill is not None:
            with pytest.raises(Killed):
                model.fit(X, y, callbacks=[kill, backup], **options)
        history = model.fit(X, y, callbacks=[backup], **options).history
        whole.append([np.asarray(each) for each in history["f1_score"]])
    np.testing.assert_array_equal(*whole)


def test_a_folder_that_cannot_be_written_to_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    backup = BackupAndRestore(tmp_path / "file" / "backup")
    with pytest.raises(ValueError, match="`backup_dir` must be a folder that"):
        model.fit(np.ones([4, 1]), np.ones([4, 1]), callbacks=[backup])
    assert int(model.optimizer.iterations) == 0
