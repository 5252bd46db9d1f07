"""Callbacks of a run that was cut off go on as if it had not been."""

from __future__ import annotations

import json
import warnings

import keras
import numpy as np
import pytest

from tfmp import layers
from tfmp._support import advice
from tfmp.callbacks import (
    AdaptivePrecision,
    BackupAndRestore,
    ScaleMonitor,
    TerminateOnOverflow,
)
from tfmp.debug import NonFiniteError
from tfmp.optimizers import LossScaleOptimizer

STEPS, BATCH = 4, 4
X = np.random.default_rng(0).normal(size=[STEPS * BATCH, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Killed(Exception):
    """Ends a `fit` where it stands."""


def kill_at(epoch, batch=None):
    """Returns a callback that ends a `fit` as an epoch or a batch ends."""
    now = []

    def end(moment):
        if moment == (epoch, batch):
            raise Killed

    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda each, logs: now.append(each),
        on_train_batch_end=lambda each, logs: end((now[-1], each)),
        on_epoch_end=lambda each, logs: end((each, None)),
    )


def make(**options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    inner = keras.optimizers.SGD(0.05, **options)
    model.compile(inner, "mse", run_eagerly=True)
    return model


def fit(model, callbacks, kill=None, save_freq="epoch", folder=None, **options):
    """Trains, with a backup last, and before it what ends the run."""
    options = {"epochs": 8, "shuffle": False, "verbose": 0, **options}
    every = [*callbacks]
    if folder is not None:
        every.append(BackupAndRestore(folder / "backup", save_freq))
    every += [kill] if kill else []
    x, y = options.pop("data", (X, Y))
    return model.fit(x, y, BATCH, callbacks=every, **options)


def both(make_callbacks, kill, tmp_path, make_model=make, **options):
    """Returns what a whole run ends with, and one that was cut off."""
    ends = []
    for folder, killed in (("whole", None), ("cut", kill)):
        place = tmp_path / folder
        place.mkdir()
        if killed:
            made = make_model(), make_callbacks(place), killed
            with pytest.raises(Killed):
                fit(*made, folder=place, **options)
        model, callbacks = make_model(), make_callbacks(place)
        history = fit(model, callbacks, folder=place, **options)
        ends.append((model, history, callbacks))
    return ends


def assert_alike(ends):
    (whole, expected, _), (cut, history, _) = ends
    assert json.dumps(history.history) == json.dumps(expected.history)
    assert history.epoch == expected.epoch
    for one, other in zip(whole.variables, cut.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 2, 3])
def test_early_stopping_ends_at_the_same_epoch(killed, tmp_path):
    """Also if it had ended the training when the run was killed."""

    def callbacks(_):
        stop = keras.callbacks.EarlyStopping("loss", 1e6, patience=3)
        return [stop]

    ends = both(callbacks, kill_at(killed), tmp_path)
    assert_alike(ends)
    assert ends[1][1].epoch == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_rate_is_reduced_at_the_same_epochs(tmp_path):
    def callbacks(_):
        return [
            keras.callbacks.ReduceLROnPlateau(
                "loss", patience=2, min_delta=1e6, cooldown=1
            )
        ]

    ends = both(callbacks, kill_at(1), tmp_path)
    assert_alike(ends)
    assert len(set(ends[0][1].history["learning_rate"])) == 4


def test_the_best_model_stays_the_best(tmp_path):
    """The rate makes losses worse from epoch to epoch."""

    def callbacks(folder):
        rate = keras.callbacks.LearningRateScheduler(lambda epoch: 1.5 * epoch)
        best = keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5",
            monitor="loss",
            save_best_only=True,
            save_weights_only=True,
        )
        return [rate, best]

    ends = both(callbacks, kill_at(1), tmp_path, epochs=4)
    assert_alike(ends)
    kernels = []
    for folder in ("whole", "cut"):
        model = make()
        model.load_weights(tmp_path / folder / "best.weights.h5")
        kernels.append(model.get_weights()[0])
    np.testing.assert_array_equal(*kernels)


def test_averages_that_are_swapped_in_are_swapped_out(tmp_path):
    def callbacks(_):
        return [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]

    def averaging():
        return make(use_ema=True, ema_momentum=0.5)

    assert_alike(both(callbacks, kill_at(1), tmp_path, averaging, epochs=4))


class Counts(keras.callbacks.Callback):
    """Of a user: counts epochs, and cannot be kept."""

    def __init__(self):
        super().__init__()
        self.seen, self.sums = 0, np.zeros(2)

    def on_epoch_end(self, epoch, logs=None):
        self.seen, self.sums = self.seen + 1, self.sums + 1


class CountsOn(Counts):
    """Can be kept."""

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.seen = state["seen"]


def test_a_callback_of_ones_own_goes_on_or_is_named(tmp_path):
    said = "Counts goes on without .* `seen`, `sums`: with methods `get_state"
    with pytest.warns(RuntimeWarning, match=said) as caught:
        ends = both(lambda _: [Counts(), CountsOn()], kill_at(1), tmp_path)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert [each.seen for each in ends[1][2]] == [6, 8]


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (
            lambda folder: keras.callbacks.EarlyStopping(
                "loss", restore_best_weights=True
            ),
            "EarlyStopping goes on without .*the weights of its best epoch",
        ),
        (
            lambda folder: keras.callbacks.CSVLogger(folder / "log.csv"),
            "CSVLogger goes on without .* rows of its file so far: `append",
        ),
    ],
)
def test_what_is_lost_is_said(callback, said, tmp_path):
    with pytest.warns(RuntimeWarning, match=said):
        both(lambda folder: [callback(folder)], kill_at(1), tmp_path)


def test_what_knows_nothing_is_not_warned_of(tmp_path):
    def callbacks(folder):
        return [
            keras.callbacks.EarlyStopping("loss"),
            keras.callbacks.CSVLogger(folder / "log.csv", append=True),
            keras.callbacks.LambdaCallback(),
        ]

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        both(callbacks, kill_at(1), tmp_path)


def test_callbacks_of_keras_after_the_backup_are_warned_of(tmp_path):
    stop = keras.callbacks.EarlyStopping("loss")
    with pytest.warns(RuntimeWarning, match="EarlyStopping will start over"):
        fit(make(), [BackupAndRestore(tmp_path / "backup"), stop], epochs=1)


def returning(state):
    """Returns a callback with such a state."""
    callback = CountsOn()
    callback.get_state = lambda: state
    return callback


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ([1], r"\[1\]"),
        (None, "None"),
        ({"by": {3: 1}}, "the key 3 at 'by'"),
        ({"pair": [(1, 2)]}, r"\(1, 2\) in a list at 'pair'"),
        ({"array": np.ones(1)}, "array.* at 'array'"),
    ],
)
def test_a_state_that_does_not_come_back_is_refused(state, said, tmp_path):
    """Before the training, not when a backup is to be restored."""
    model, callback = make(), returning(state)
    before = model.get_weights()[0]
    match = rf"`CountsOn\.get_state\(\)` must .* Received: {said}"
    with pytest.raises(ValueError, match=match):
        fit(model, [callback], folder=tmp_path)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    assert not list(tmp_path.rglob("*.h5"))


def test_a_state_that_fails_is_refused(tmp_path):
    callback = CountsOn()
    del callback.seen
    with pytest.raises(ValueError, match=r"CountsOn.*no attribute 'seen'"):
        fit(make(), [callback], folder=tmp_path)


def test_a_state_of_numbers_as_metrics_have_them_is_kept(tmp_path):
    state = {"best": np.float32(0.1), "all": [float("nan")], "at": {"a": None}}
    fit(make(), [returning(state)], folder=tmp_path, epochs=1)


class OtherMethods(Counts):
    """Has methods of these names for something else."""

    def get_state(self, key):
        raise AssertionError(key)

    def set_state(self, key, value):
        raise AssertionError(key)


def test_methods_with_other_arguments_are_not_those_of_a_backup(tmp_path):
    with pytest.warns(RuntimeWarning, match="OtherMethods goes on without"):
        both(lambda _: [OtherMethods()], kill_at(1), tmp_path)


class OfAnOlderVersion(CountsOn):
    """Takes half of its state, and then misses the other."""

    def set_state(self, state):
        super().set_state(state)
        if state["seen"] and "more" not in state:
            raise KeyError("more")


@pytest.mark.parametrize(("killed", "epochs"), [((1, None), 6), ((1, 2), 7)])
def test_a_state_that_cannot_be_taken_back_starts_over(
    killed, epochs, tmp_path
):
    """Also within an epoch, where states are given back twice."""
    said = "OfAnOlderVersion starts over: .*KeyError: 'more'"
    with pytest.warns(RuntimeWarning, match=said) as caught:
        ends = both(
            lambda _: [OfAnOlderVersion(), CountsOn()],
            kill_at(*killed),
            tmp_path,
            save_freq=1,
        )
    assert len([w for w in caught if "starts over" in str(w.message)]) == 1
    assert_alike(ends)
    assert [each.seen for each in ends[1][2]] == [epochs, 8]


def without(kind, key):
    """Returns a callback whose state has no such key, as it once was."""

    class Older(kind):
        def get_state(self):
            state = super().get_state()
            del state[key]
            return state

    Older.__name__ = kind.__name__
    return Older


@pytest.mark.filterwarnings("ignore:Step")
@pytest.mark.parametrize(
    ("kind", "key"), [(ScaleMonitor, "known"), (AdaptivePrecision, "trouble")]
)
def test_backups_of_older_versions_go_on(kind, key, tmp_path):
    """Weights and data from the backup; the callback as in a new `fit`."""
    options = {"epochs": 2, "save_freq": 1, "folder": tmp_path}
    with pytest.raises(Killed):
        older = without(kind, key)(every=2)
        fit(watched(), [older], kill_at(1, 0), **options)
    callback = kind(every=2)
    said = f"{kind.__name__} starts over: .*KeyError: '{key}'"
    with pytest.warns(RuntimeWarning, match=said):
        history = fit(watched(), [callback], **options)
    assert history.epoch == [0, 1]
    assert callback.samples[-1]["step"] == 2 * STEPS


def overflowing():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    model.compile(LossScaleOptimizer("sgd"), "mse", run_eagerly=True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("killed", [4, 8, 10])
@pytest.mark.filterwarnings("ignore:LossScaleOptimizer")
def test_a_training_that_only_skips_ends_at_the_same_step(killed, tmp_path):
    """It looks every third step, and at every one from 12 on."""
    x = np.repeat(X, 8, axis=0)
    x[BATCH:] = 3e38
    options = {"data": (x, np.ones([len(x), 1])), "epochs": 1, "save_freq": 1}

    def run(*kill):
        fit(
            overflowing(),
            [TerminateOnOverflow(12)],
            *kill,
            folder=tmp_path,
            **options,
        )

    with pytest.raises(Killed):
        run(kill_at(0, killed))
    with pytest.raises(NonFiniteError) as caught:
        run()
    assert caught.value.step == 13


def watched():
    keras.utils.set_random_seed(0)
    dense = layers.Dense(1, dtype="mixed_float8", name="head")
    model = keras.Sequential([keras.Input([4]), dense], name="net")
    model.compile(LossScaleOptimizer("sgd", 64.0), "mse", run_eagerly=True)
    return model


@pytest.mark.slow_but("[killed1]")
@pytest.mark.parametrize("killed", [(1, 2), (2, 0)])
def test_a_monitor_tells_each_thing_once_and_history_the_same(killed, tmp_path):
    """Of steps that are all skipped, which the third sample tells."""
    x = X.copy()
    x[:, 0] = np.inf
    options = {"data": (x, Y), "epochs": 3, "save_freq": 1}

    def callbacks(folder):
        return [ScaleMonitor(folder / "log", every=2)]

    with pytest.warns(RuntimeWarning, match="Step") as caught:
        ends = both(callbacks, kill_at(*killed), tmp_path, watched, **options)
    assert_alike(ends)
    said = [w for w in caught if "Every step since" in str(w.message)]
    assert len(said) == 2  # of the whole run, and of the other


def test_an_adviser_goes_on():
    narrow = {"net/head/inputs/sqnr": 5.0}
    whole, first = advice.Adviser(), advice.Adviser()
    assert whole.look(narrow) == first.look(narrow) == []
    then = advice.Adviser()
    then.set_state(json.loads(json.dumps(first.get_state())))
    expected = [whole.look(narrow) for _ in range(3)]
    assert [then.look(narrow) for _ in range(3)] == expected
    assert len(expected[0]) == 1 and expected[1:] == [[], []]
