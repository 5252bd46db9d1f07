"""`PrecisionScheduler`, and what a change of precision leaves as it was."""

from __future__ import annotations

import json
import sys
import warnings

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp import checkpoints
from tfmp._keras import replicas
from tfmp._support import changes
from tfmp._switching import notes, precisions
from tfmp._switching.snapshot import Snapshot
from tfmp._switching.structure import Structure
from tfmp._switching.switch import Wanted, present, switch
from tfmp.callbacks import (
    BackupAndRestore,
    Change,
    PrecisionScheduler,
    ScaleMonitor,
)
from tfmp.callbacks.trace_signatures import Signature
from tfmp.layers.float8_state import all_states
from tfmp.reporting import logs

WIDTH, BATCH, STEPS = 8, 8, 4
X = np.random.default_rng(0).normal(size=[STEPS * BATCH, WIDTH])
X = X.astype("float32")
FP8, BF16 = tfmp.Policy("mixed_float8"), tfmp.Policy("mixed_bfloat16")
THERE_AND_BACK = {
    1: "mixed_float8",
    2: {"net/a": "mixed_bfloat16"},
    3: {"net/a": "mixed_float8"},
}


class Traced(keras.layers.Layer):
    """Counts how often a training step is traced."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.traces = 0

    def call(self, x, training=None):
        self.traces += bool(training) and not isinstance(x, keras.KerasTensor)
        return x


class Watch(keras.callbacks.Callback):
    """Keeps what each variable holds whenever an epoch begins."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(named(self.model))


class Later(PrecisionScheduler):
    """Changes precision as a step ends, after others have looked at it."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self._reach(self._count.step)


class Killed(Exception):
    """Ends a `fit` where it stands."""


class Kill(keras.callbacks.Callback):
    """Ends a `fit` after a batch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.moment = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.moment:
            raise Killed


def make(optimizer="adam", **options):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input([WIDTH]),
        Traced(name="traced"),
        keras.layers.Dense(WIDTH, "relu", name="a"),
        keras.layers.Dropout(0.1, seed=1, name="dropout"),
        keras.layers.Dense(WIDTH, name="b"),
    ]
    model = keras.Sequential(layers, name="net")
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    return model


def scaled(**options):
    return tfmp.optimizers.LossScaleOptimizer("adam", **options)


def fit(model, *callbacks, epochs=4, **options):
    return model.fit(
        *(X, X, BATCH),
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
        **options,
    )


def values(model):
    """All that a training goes on from; of FP8 state what is assumed."""
    states = {id(s.variable): s for s in all_states(model, idle=True)}
    return [
        (states[id(v)].amax if id(v) in states else v).numpy()
        for v in checkpoints.variables(model)
    ]


def named(model):
    """All that a training goes on from, on each replica.

    The FP8 window is by layer, as its array follows the layers.
    """
    history = getattr(model.optimizer, "amax_history", None)
    found = {
        id(v): [np.array(p.numpy()) for p in replicas.parts(model, v)]
        for v in checkpoints.variables(model)
        if v is not history
    }
    if history is not None and model.optimizer.built:
        for row, state in enumerate(all_states(model)):
            found[id(state), "window"] = [history.numpy()[:, row]]
    return found


def kept(before, after):
    """Whether all that both have is the same, bit for bit."""
    return all(
        np.array_equal(x, y, equal_nan=True)
        for key in before.keys() & after.keys()
        for x, y in zip(before[key], after[key], strict=True)
    )


@pytest.mark.slow_but("Keras")
@pytest.mark.parametrize(
    ("optimizer", "epochs", "options"),
    [
        (lambda: "adam", 4, {"jit_compile": False}),
        (
            lambda: scaled(initial_scale=4.0),
            *(3, {"jit_compile": True, "steps_per_execution": 2}),
        ),
    ],
    ids=["Keras' optimizer", "loss scale, XLA, two steps an execution"],
)
def test_all_state_is_kept_and_a_change_is_traced_once(
    optimizer, epochs, options
):
    model = make(optimizer(), **options)
    before, after = Watch(), Watch()
    traced = model.get_layer("traced")
    scheduler = PrecisionScheduler(THERE_AND_BACK)
    counts = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: counts.append(traced.traces)
    )
    fit(model, before, scheduler, after, count, epochs=epochs)
    each = zip(before.seen, after.seen, strict=True)
    assert [kept(*pair) for pair in each] == [True] * epochs
    assert np.diff(counts).tolist() == [1] * (epochs - 1)
    assert int(model.optimizer.iterations) == epochs * STEPS
    moved = [(c.epoch, c.step, c.layer, c.after) for c in scheduler.changes]
    there = 2, 2 * STEPS, "net/a", "mixed_bfloat16"
    back = 3, 3 * STEPS, "net/a", "mixed_float8"
    assert moved[4:] == [there, back][: epochs - 2]
    later = after.seen[2:]
    # b's amax, and window of the steps before, is there after a's change.
    state = model.get_layer("b").float8
    assert all((s[id(state.variable)][0][:2] > 0).any(0).all() for s in later)
    if hasattr(model.optimizer, "amax_history"):
        windows = [seen[id(state), "window"][0][:STEPS] for seen in later]
        assert all((window > 0).all() for window in windows)


def test_a_layer_that_comes_back_has_its_scale_but_not_of_old_gradients():
    """The loss scale goes on meanwhile, and with it what gradients are."""
    model = make(scaled(initial_scale=4.0, growth_steps=2), run_eagerly=True)
    amax = {}

    def look(epoch, logs=None):
        state = getattr(model.get_layer("a"), "float8", None)
        amax[epoch] = None if state is None else state.amax.numpy()

    look = keras.callbacks.LambdaCallback(on_epoch_begin=look)
    fit(model, PrecisionScheduler(THERE_AND_BACK), look)
    assert amax[0] is None and (amax[1][:2] == 0).all()
    np.testing.assert_array_equal(amax[3][:2], amax[2][:2])
    prior = amax[1][2] / 4.0 / 2**2  # of loss scale 1: four steps, two each
    scale = 4.0 * 2 ** (3 * STEPS / 2)
    assert amax[3][2] == prior * scale != amax[2][2]


def test_its_state_is_all_that_a_new_one_needs():
    made = PrecisionScheduler(THERE_AND_BACK)
    state = {
        "count": made.get_state()["count"] | {"step": 7},
        "changes": [Change(3, 0, "scheduled", "a", "b", "c", "d").to_dict()],
    }
    made.set_state(state)
    assert made.get_state() == json.loads(json.dumps(state))


@pytest.mark.slow
def test_it_goes_on_from_a_backup_bit_for_bit(tmp_path):
    """Killed while a layer has FP8 state that it does not use."""

    def schedule():
        times = {3: FP8, 6: {"net/a": BF16}, 10: {"net/a": FP8}}
        return PrecisionScheduler(times, unit="step")

    def run(*kill):
        model = make(run_eagerly=True)
        backup = BackupAndRestore(tmp_path / "backup", save_freq=1)
        scheduler = schedule()
        history = fit(model, scheduler, *kill, backup, epochs=3)
        return values(model), history.history, scheduler.changes

    expected, history, changed = run()
    with pytest.raises(Killed):
        run(Kill(1, 3))
    found, again, made = run()
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)
    assert json.dumps(again) == json.dumps(history)
    assert made == changed and (made[-1].step, made[-1].layer) == (10, "net/a")


class Fails(tfmp.layers.Dense):
    """Cannot be changed once it is armed."""

    armed = False

    def update_float8(self):
        super().update_float8()
        if self.armed:
            raise MemoryError("no room")


class FailsLate(tfmp.optimizers.LossScaleOptimizer):
    """Fails when everything else is changed."""

    armed = False

    def rebuild(self, var_list):
        super().rebuild(var_list)
        if self.armed:
            self.armed = False
            raise MemoryError("no room")


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_a_fault_half_way_changes_nothing(late):
    optimizer = FailsLate("adam") if late else "adam"
    last = Fails(WIDTH, name="last", dtype="float32")
    model = keras.Sequential(
        [
            keras.Input([WIDTH]),
            keras.layers.Dense(WIDTH, name="first"),
            tfmp.layers.Dense(WIDTH, name="second", dtype="mixed_float8"),
            last,
        ],
        name="net",
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    fit(model, epochs=1)
    before, structure = named(model), Structure(model)
    kinds = [type(layer) for layer in model.layers]
    (model.optimizer if late else last).armed = True
    names = [v.path for v in model.variables]
    wanted = {
        "net/first": Wanted(FP8, ""),
        "net/second": Wanted(BF16, ""),
        "net/last": Wanted(FP8, ""),
    }
    with pytest.raises(MemoryError):
        switch(model, wanted)
    assert structure.is_present and kept(before, named(model))
    assert before.keys() == named(model).keys()
    assert [type(layer) for layer in model.layers] == kinds
    assert [v.path for v in model.variables] == names
    last.armed = False
    fit(model, epochs=1)
    switch(model, wanted)
    assert not structure.is_present
    fit(model, epochs=1)


def test_a_snapshot_goes_back_over_a_change():
    model = make(run_eagerly=True)
    fit(model, epochs=1)
    before, snapshot = named(model), Snapshot(model)
    switch(model, {"net/a": Wanted(FP8, ""), "net/b": Wanted(BF16, "")})
    fit(model, epochs=1)
    assert not kept(before, named(model))
    snapshot.restore()
    assert named(model).keys() == before.keys() and kept(before, named(model))
    assert not all_states(model)
    assert {p.name for p in present(model).values()} == {"float32"}
    fit(model, epochs=1)


def test_a_structure_gives_casting_back():
    """A model that only holds layers stops casting its inputs, then casts."""

    class Words(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(1000, 4)
            self.out = keras.layers.Dense(1)

        def call(self, ids):
            return self.out(self.table(ids))

    model = Words()
    model(np.ones([2, 4], "float32"))
    model.compile("sgd", "mse")
    structure = Structure(model)
    tfmp.convert(model, policy="mixed_bfloat16")
    assert not model.autocast and not structure.is_present
    structure.restore()
    assert model.autocast and structure.is_present


@pytest.mark.slow
def test_the_monitor_follows(tmp_path):
    """What left FP8 is in no sample, what came back is; and why is written."""
    model = make(run_eagerly=True)
    monitor = ScaleMonitor(tmp_path, every=STEPS)
    schedule = {0: FP8, 4: {"a": BF16}, 8: {"a": FP8}, 12: {"b": BF16}}
    later = Later(schedule, unit="step")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fit(model, monitor, later, epochs=3)
    names = "net/a/inputs/amax", "net/a/inputs/sqnr", "net/b/inputs/sqnr"
    seen = [[name in sample for name in names] for sample in monitor.samples]
    assert seen == [[True] * 3, [False, False, True], [True] * 3]
    assert list(logs.read(tmp_path).changes) == later.changes
    [board] = (tmp_path / "scales").iterdir()
    texts = [
        value.tensor.string_val[0].decode()
        for event in tf.compat.v1.train.summary_iterator(str(board))
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "text"
    ]
    said = "net/{} from mixed_{} to mixed_{}: the schedule, step {}"
    assert texts[1:] == [
        "step 4: " + said.format("a", "float8", "bfloat16", 4),
        "step 8: " + said.format("a", "bfloat16", "float8", 8),
        "step 12: " + said.format("b", "float8", "bfloat16", 12),
    ]


def test_what_is_in_force_is_not_changed_again():
    model = make(run_eagerly=True)
    scheduler = PrecisionScheduler([(0, "mixed_bfloat16"), (1, BF16)])
    functions = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: functions.append(model.train_function)
    )
    fit(model, scheduler, look, epochs=2)
    fit(model, scheduler, look, epochs=2)
    assert functions[0] is functions[1]
    assert {change.epoch for change in scheduler.changes} == {0}


def test_a_function_follows_the_learning_rate():
    model = make(keras.optimizers.SGD(1.0), run_eagerly=True)
    asked = []

    def schedule(epoch, current):
        asked.append(current["net/a"])
        rate = float(model.optimizer.learning_rate)
        return {"net/a": "mixed_float8" if rate > 0.2 else "mixed_bfloat16"}

    decay = keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2)
    fit(model, decay, PrecisionScheduler(schedule))
    assert asked == ["float32", *["mixed_float8"] * 2, "mixed_bfloat16"]


@pytest.mark.parametrize(
    "precision",
    [
        "mixed_float8",
        tfmp.Policy("mixed_float8", "current"),
        {"name": "mixed_float8", "recipe": "current"},
        keras.dtype_policies.serialize(BF16),
        {"head|a": "float32"},
        {"policies": {"a": "float32"}, "default": "mixed_bfloat16"},
        tfmp.PrecisionMap({"a": "mixed_float8"}),
    ],
    ids=str,
)
def test_precisions_as_users_write_them(precision):
    plan = precisions.checked("schedule[0]", precision)
    decided = plan.decisions(make(), "net")
    assert "net/a" in decided


@pytest.mark.parametrize(
    ("schedule", "unit", "error", "said"),
    [
        ({}, "epoch", ValueError, "`schedule` must be"),
        ("mixed_float8", "epoch", TypeError, "`schedule` must be"),
        ([(0, "float32", 1)], "epoch", TypeError, "`schedule` must be"),
        ({-1: "float32"}, "epoch", ValueError, "a time of `schedule`"),
        ({0.5: "float32"}, "epoch", TypeError, "a time of `schedule`"),
        ([(1, "float32"), (1, BF16)], "epoch", ValueError, "each time once"),
        ({3: "float9"}, "epoch", ValueError, r"`schedule\[3\]` must be"),
        ({3: "bfloat16"}, "epoch", ValueError, "float32 variables"),
        ({3: {"a": "float16"}}, "epoch", ValueError, "float32 variables"),
        ({3: {"(": "float32"}}, "epoch", ValueError, "regular expression"),
        ({0: "float32"}, "week", ValueError, "`unit` must be"),
        (lambda *_: None, "step", ValueError, "`unit` must be"),
    ],
)
def test_the_whole_schedule_is_checked_at_once(schedule, unit, error, said):
    with pytest.raises(error, match=said):
        PrecisionScheduler(schedule, unit)


def test_misspelt_paths_are_found_before_training():
    model = make(run_eagerly=True)
    scheduler = PrecisionScheduler({50: {"haed": "float32"}})
    with pytest.raises(ValueError, match=r"`schedule\[50\]` must name"):
        fit(model, scheduler)
    assert not int(model.optimizer.iterations)


def test_notes_of_another_model_are_left_alone():
    model, other = make(), keras.Sequential([keras.Input([2])])
    before = present(other)
    switch(model, {"net/a": Wanted(FP8, "")})
    found = json.loads(json.dumps(notes.precision_of(model)))
    notes.put_in_force(other, found)
    notes.put_in_force(model, None)
    assert present(other) == before and present(model)["net/a"] == FP8
    again = make()
    notes.put_in_force(again, found)
    assert present(again)["net/a"] == FP8


def test_changes_are_plain_and_told_together(caplog):
    words = (8, 1, "scheduled"), ("mixed_float8", "float32", "by plan")
    made = [Change(*words[0], f"net/{i}", *words[1]) for i in range(6)]
    assert json.loads(json.dumps(made[0].to_dict()))["layer"] == "net/0"
    with caplog.at_level("INFO", "tfmp"):
        changes.tell(made)
    [line] = caplog.messages
    assert line == (
        "step 8: net/0, net/1, net/2, net/3 and 2 more from mixed_float8 to "
        "float32: by plan"
    )
    with pytest.warns(RuntimeWarning, match="up from"):
        changes.tell([Change(1, 0, "up", "a", "x", "y", "z")])
    with pytest.raises(ValueError, match="`kind` must be"):
        Change(1, 0, "sideways", "a", "x", "y", "z")


def on_replicas():
    """Trains over changes on two logical CPUs; prints what went wrong."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    both = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, both)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make(scaled(initial_scale=4.0, dynamic=False))
    before, after = Watch(), Watch()
    fit(model, before, PrecisionScheduler(THERE_AND_BACK), after, epochs=3)
    seen = zip(before.seen, after.seen, strict=True)
    amax = [state.variable for state in all_states(model)]
    copies = [[p.numpy() for p in replicas.parts(model, v)] for v in amax]
    snapshot, then = Snapshot(model, 2), named(model)
    switch(model, {"net/b": Wanted(BF16, "")})
    for variable in model.trainable_variables:
        variable.assign(variable + 1)
    changed = not kept(then, named(model))
    snapshot.restore(2)
    found = {
        "kept": [kept(*pair) for pair in seen],
        "copies": [len(each) for each in copies],
        "alike": all(np.array_equal(*each) for each in copies),
        "restored": changed and kept(then, named(model)),
        "steps": int(model.optimizer.iterations.numpy()),
    }
    sys.stdout.write(json.dumps(found))


@pytest.mark.slow
def test_on_replicas():
    program = "import test_precision_scheduler as t; t.on_replicas()"
    path = (forked.ROOT, forked.ROOT / "tests")
    done = forked.run(program, path=path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "kept": [True] * 3,
        "copies": [2],
        "alike": True,
        "restored": True,
        "steps": 3 * STEPS,
    }


def traced_in(schedule, *more, programs=4):
    """Returns the epochs that traced a step, and what the training ends with.

    Counted in a list: a number of a layer is a setting that traces depend on.
    """
    optimizer, seen, now = scaled(initial_scale=4.0), [], [0]
    model = make(optimizer, jit_compile=False)

    def call(x, training=None):
        if training and not isinstance(x, keras.KerasTensor):
            seen.append(now[0])
        return x

    model.get_layer("traced").call = call
    begin = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: now.__setitem__(0, epoch)
    )
    scheduler = PrecisionScheduler(schedule, programs=programs)
    fit(model, begin, *more, scheduler, epochs=len(ALTERNATING))
    return seen, values(model)


ALTERNATING = {
    time: "mixed_bfloat16" if time % 2 else "mixed_float8" for time in range(6)
}


@pytest.mark.slow
def test_a_precision_that_comes_back_is_not_traced_again():
    """And trains as one that is, bit for bit.

    The step that `fit` begins with may be an older one, and is not kept.
    """
    seen, found = traced_in(ALTERNATING)
    again, expected = traced_in(ALTERNATING, programs=0)
    assert sorted(set(seen)) == [0, 1, 2]
    assert sorted(set(again)) == list(range(6))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_by_default_each_change_traces_a_step():
    assert PrecisionScheduler(ALTERNATING)._programs._most == 0


@pytest.mark.slow_but("[rate]")
@pytest.mark.parametrize("what", ["rate", "list", "trainable", "optimizer"])
def test_a_step_is_traced_again_if_something_else_has_changed(what):
    """In epoch 3, when the step of epoch 1 would come back."""

    def change(epoch, model):
        if epoch == 0:
            model.get_layer("dropout").factors = [1.0]
        elif epoch == 3 and what == "rate":
            model.get_layer("dropout").rate = 0.5
        elif epoch == 3 and what == "list":
            model.get_layer("dropout").factors[0] = 2.0
        elif epoch == 3 and what == "trainable":
            model.get_layer("b").trainable = False
        elif epoch == 3:
            model.optimizer.inner_optimizer.beta_1 = 0.5

    more = keras.callbacks.LambdaCallback()
    more.on_epoch_begin = lambda epoch, logs: change(epoch, more.model)
    seen, _ = traced_in(ALTERNATING, more)
    assert sorted(set(seen)) == [0, 1, 2, 3, 4]


def test_a_step_that_was_traced_before_a_change_is_not_kept():
    """A callback changes a number after the first batch of epoch 1."""
    epochs = []

    def change(batch, logs):
        if (epochs[-1], batch) == (1, 0):
            more.model.get_layer("dropout").rate = 0.5

    more = keras.callbacks.LambdaCallback(on_train_batch_end=change)
    more.on_epoch_begin = lambda epoch, logs: epochs.append(epoch)
    seen, _ = traced_in(ALTERNATING, more)
    assert sorted(set(seen)) == [0, 1, 2, 3]


class Factor(keras.losses.Loss):
    """A loss that holds what a trace reads."""

    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def call(self, y_true, y_pred):
        return self.factor * keras.losses.mse(y_true, y_pred)


class Holds:
    """An object of the user."""

    def __init__(self):
        self.number = 1


class Slots:
    """An object whose attributes cannot be looked at."""

    __slots__ = ()


def holding():
    """Returns a small model that holds things of each kind."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    layer = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2())
    model = keras.Sequential([keras.Input([2]), layer])
    model.compile(keras.optimizers.SGD(rate), Factor())
    layer.things = [1, {"a": (1.0, "b")}, {3}]
    layer.array = np.zeros(2)
    layer.object = Holds()
    layer.function = len
    return model


CHANGES = {
    "a list": lambda m, d: d.things.append(1),
    "a dictionary in a list": lambda m, d: d.things[1].update({"a": 2.0}),
    "its order": lambda m, d: d.things.reverse(),
    "a set": lambda m, d: d.things[2].add(4),
    "an array in place": lambda m, d: d.array.__setitem__(0, 1.0),
    "its kind": lambda m, d: setattr(d, "array", d.array.astype("float32")),
    "a kind of number": lambda m, d: setattr(d.object, "number", True),
    "an object": lambda m, d: setattr(d.object, "number", 2),
    "a function": lambda m, d: setattr(d, "function", max),
    "a loss": lambda m, d: setattr(m.loss, "factor", 2.0),
    "a regularizer": lambda m, d: setattr(d.kernel_regularizer, "l2", 1.0),
    "a rate": lambda m, d: setattr(
        m.optimizer._learning_rate, "decay_rate", 0.1
    ),
    "what cannot be compared": lambda m, d: setattr(d, "object", Slots()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_signature_is_another_if_what_a_trace_reads_is(what):
    model = holding()
    before = Signature(model)
    layer = model.layers[0]
    layer.array, layer.things = layer.array.copy(), list(layer.things)
    assert before == Signature(model)
    CHANGES[what](model, layer)
    assert before != Signature(model)
    if "cannot" in what:
        assert Signature(model) != Signature(model)


def test_a_list_that_holds_itself_is_another_each_time():
    model = holding()
    things = []
    things.append(things)
    model.layers[0].object.number = things
    assert Signature(model) != Signature(model)


@pytest.mark.slow
def test_kept_steps_are_beside_those_of_a_monitor():
    """Which stands before the one that is kept, and measures another."""
    monitor = ScaleMonitor(every=2)
    seen, found = traced_in(ALTERNATING, monitor)
    again, expected = traced_in(ALTERNATING, ScaleMonitor(every=2), programs=0)
    assert len(seen) < len(again)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)
    steps = [sample["step"] for sample in monitor.samples]
    assert steps == list(range(2, 6 * STEPS + 1, 2))
    measured = ["net/a/inputs/sqnr" in sample for sample in monitor.samples]
    assert measured[1:] == [
        sample["epoch"] % 2 == 0 for sample in monitor.samples[1:]
    ]


def test_only_the_newest_steps_are_kept():
    seen, _ = traced_in(ALTERNATING, programs=1)
    assert sorted(set(seen)) == [0, 1, 2]
    three = enumerate(["mixed_float8", "mixed_bfloat16", "float32"] * 2)
    seen, _ = traced_in(dict(three), programs=1)
    assert sorted(set(seen)) == list(range(6))
