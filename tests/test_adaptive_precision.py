"""`AdaptivePrecision`: who goes up, who comes down, and what is gone back to.

The planted trouble is a column of inputs of 2**20 that a mask on the kernel
keeps out of the result: bfloat16 does not mind it, and with one FP8 scale for
the tensor all else in it underflows.
"""

from __future__ import annotations

import json
import math
import warnings

import keras
import numpy as np
import pytest

import tfmp
from tfmp import checkpoints
from tfmp._core import scaling, statistics
from tfmp._switching.hysteresis import DOWN, STAY, UP, Rung, trouble
from tfmp._switching.loss_watch import LEAST, LossWatch
from tfmp.callbacks import (
    AdaptivePrecision,
    BackupAndRestore,
    PrecisionBounds,
    PrecisionRule,
    Rollback,
    ScaleMonitor,
)
from tfmp.callbacks.ladder_arguments import checked_ladder
from tfmp.callbacks.precision_ladders import Ladder
from tfmp.reporting import logs, page
from tfmp.reporting.analysis import analyse

WIDTH, BATCH = 16, 8


@keras.saving.register_keras_serializable("tests")
class WithoutFirst(keras.constraints.Constraint):
    """Keeps the weights of the first input zero."""

    def __call__(self, w):
        return w * keras.ops.cast(np.arange(w.shape[0])[:, None] > 0, w.dtype)


def make(policy="mixed_float8", optimizer=None):
    keras.utils.set_random_seed(0)
    first = tfmp.layers.Dense(
        *(WIDTH, "relu"),
        name="first",
        dtype=policy,
        kernel_constraint=WithoutFirst(),
    )
    last = tfmp.layers.Dense(WIDTH, name="last", dtype=policy)
    layers = [keras.Input([WIDTH]), first, last]
    model = keras.Sequential(layers, name="net")
    first.kernel.assign(WithoutFirst()(first.kernel))
    adam = keras.optimizers.Adam(0.01)
    scaled = tfmp.optimizers.LossScaleOptimizer(adam, 1.0, dynamic=False)
    model.compile(optimizer or scaled, "mse", jit_compile=False)
    return model


def data(steps, *planted):
    """Normal inputs, and targets that are the inputs and noise.

    Args:
        steps: of batches.
        planted: from which step to which there is trouble.
    """
    shape = 2, steps * BATCH, WIDTH
    x, noise = np.random.default_rng(0).normal(size=shape).astype("float32")
    y = x[:, ::-1] + noise / 2
    y[:, -1] = 0
    for start, end in planted:
        x[start * BATCH : end * BATCH, 0] = 2.0**20
    return x, y


def fit(model, x, y, *callbacks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return model.fit(
            *(x, y, BATCH), verbose=0, shuffle=False, callbacks=[*callbacks]
        )


def moves(callback):
    return [(c.step, c.kind, c.layer, c.after) for c in callback.changes]


def values(model):
    return [v.numpy() for v in checkpoints.variables(model)]


class Watch(keras.callbacks.Callback):
    """Keeps all variables before each step."""

    def on_train_begin(self, logs=None):
        self.seen = {}

    def on_train_batch_begin(self, batch, logs=None):
        self.seen[batch] = values(self.model)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A training with trouble for a while, as Keras runs it."""
    folder = tmp_path_factory.mktemp("log")
    model = make()
    adaptive = adapting(log_dir=folder)
    fit(model, *data(72, (18, 40)), adaptive)
    return model, adaptive, folder


def adapting(**options):
    ladder = ["mixed_float8", "mixed_bfloat16"]
    return AdaptivePrecision(ladder, None, 4, PrecisionRule(quiet=3), **options)


class Killed(Exception):
    """Ends a `fit` where it stands."""


def test_a_layer_goes_up_in_trouble_and_comes_down_after_it(planted):
    """Two observations up; three down, none of them in trouble."""
    model, adaptive, _ = planted
    assert moves(adaptive) == [
        (24, "up", "net/first", "mixed_bfloat16"),
        (52, "down", "net/first", "mixed_float8"),
    ]
    up, down = (change.reason for change in adaptive.changes)
    assert up.startswith("93.8% of inputs underflow to zero, more than 25.0%")
    assert down == "within the bounds of FP8 for 3 observations"
    [row, _] = tfmp.ConversionReport(model).rows
    assert row.precision == "float8" and row.reason == down


def test_what_fp8_would_do_is_looked_at_all_the_time(planted):
    _, adaptive, _ = planted
    by_step = {sample["step"]: sample for sample in adaptive.samples}
    flushed = "net/first/inputs/underflow_share"
    there = {step for step, s in by_step.items() if s[flushed] > 0.5}
    assert there == {20, 24, 28, 32, 36, 40}
    bits = {step: sample["net/first/bits"] for step, sample in by_step.items()}
    assert {step for step, n in bits.items() if n == 16} == {*range(24, 52, 4)}
    shares = {step: s["float8_share"] for step, s in by_step.items()}
    assert shares[24] == 0.5 and shares[20] == shares[52] == 1.0


def test_the_report_shows_the_changes(planted):
    _, adaptive, folder = planted
    run = logs.read(folder)
    assert list(run.changes) == adaptive.changes and run.said == ()
    assert run.values("net/first/bits").min() == 8
    [one, _] = [json.dumps(change.to_dict()) for change in adaptive.changes]
    assert json.loads(one)["kind"] == "up"
    text = page.render(analyse([folder]), [[]], [])
    for change in adaptive.changes:
        words = change.layer, change.before, change.after, change.reason
        row = [str(change.step), "0", *words]
        assert "<td>".join(f"{w}</td>" for w in row[1:]) in text


def test_its_state_is_all_that_a_new_one_needs(planted):
    _, whole, _ = planted
    state = json.loads(json.dumps(whole.get_state()))
    assert state["loss"]["losses"] and state["changes"]
    new, model = adapting(), make()
    new.set_model(model)
    new.on_train_begin()
    new.set_state(state)
    assert json.loads(json.dumps(new.get_state())) == state


def test_its_log_has_the_losses_of_steps(planted):
    _, _, folder = planted
    assert np.isfinite(logs.read(folder).values(logs.STEP_LOSS)).all()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [23, 71])
def test_a_run_that_was_killed_goes_on_bit_for_bit(planted, killed, tmp_path):
    """With one in trouble of two, or with a measured step not looked at."""
    whole, expected, _ = planted
    x, y = data(72, (18, 40))

    def kill(batch, logs=None):
        if batch == killed:
            raise Killed

    kill = keras.callbacks.LambdaCallback(on_train_batch_begin=kill)
    log, backup = tmp_path / "log", tmp_path / "backup"
    save = 71 if killed == 71 else 11

    def run(*more):
        model, adaptive = make(), adapting()
        monitor = ScaleMonitor(log, every=24)
        last = BackupAndRestore(backup, save_freq=save)
        fit(model, x, y, monitor, adaptive, *more, last)
        return model, adaptive

    with pytest.raises(Killed):
        run(kill)
    model, adaptive = run()
    assert adaptive.changes == expected.changes
    for mine, other in zip(values(model), values(whole), strict=True):
        np.testing.assert_array_equal(mine, other)
    again = [{**sample, "time": 0} for sample in adaptive.samples]
    once = [{**sample, "time": 0} for sample in expected.samples]
    start = killed // save * save
    assert again == [each for each in once if each["step"] > start]
    # The monitor writes each change once, and measures the same steps.
    assert list(logs.read(log).changes) == expected.changes
    names = [f"net/last/{role}/sqnr" for role in tfmp.recipes.ROLES]
    mine = [adaptive.samples[-1][name] for name in names]
    assert [logs.read(log).last(name) for name in names] == mine


def test_a_shadow_measures_what_fp8_would():
    """Of weights that stand still: inputs, kernel, and what comes back."""
    recipe = tfmp.recipes.CurrentScaling()
    ladder = [tfmp.Policy("mixed_float8", recipe), "mixed_bfloat16"]
    still = tfmp.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), 64.0)
    model, (x, y) = make("mixed_bfloat16", still), data(2)
    adaptive = AdaptivePrecision(ladder, every=2)
    fit(model, x, y, adaptive)
    x, y = x[BATCH:], y[BATCH:]
    hidden = model.get_layer("first")(x)
    error = keras.ops.cast(model.get_layer("last")(hidden), "float32") - y
    grads = keras.ops.cast(error * (2 * 64 / y.size), "bfloat16")
    kernel = keras.ops.cast(model.get_layer("last").kernel, "bfloat16")
    behind = keras.ops.matmul(grads, keras.ops.transpose(kernel))
    tensors = {
        "first/inputs": keras.ops.cast(x, "bfloat16"),
        "first/kernel": model.get_layer("first").kernel.value,
        "last/inputs": hidden,
        "last/grads": grads,
        "first/grads": behind * keras.ops.cast(hidden > 0, "bfloat16"),
    }
    for name, tensor in tensors.items():
        target = recipe.format(name.rpartition("/")[2])
        amax = scaling.amax(tensor)
        scale = scaling.compute_scale(amax, target)
        vector = statistics.measure(tensor, scale, target, amax)
        expected = statistics.describe(vector.numpy(), target)
        del expected["lag"]
        found = {k: adaptive.samples[-1][f"net/{name}/{k}"] for k in expected}
        assert found == pytest.approx(expected, rel=1e-2), name


@pytest.mark.slow_but("[nan]")
@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_it_goes_back_to_the_last_good_state_bit_for_bit(kind):
    """Of step 8: the state of step 16 had not proved good yet."""
    model, (x, y) = make(), data(32, *([(20, 32)] if kind == "spike" else []))
    if kind == "nan":
        y[20 * BATCH, 3] = np.nan
    else:
        y[20 * BATCH : 22 * BATCH] *= 100
    watch, back = Watch(), []
    adaptive = AdaptivePrecision(
        every=32, rollback=Rollback(keep_every=8, spike=4)
    )
    states = {}

    def after(batch, logs=None):
        if adaptive.changes and not states:
            states["now"] = values(model)

    look = keras.callbacks.LambdaCallback(on_train_batch_end=after)
    fit(model, x, y, watch, adaptive, look)
    [back, *ups] = adaptive.changes
    assert back.kind == "rollback" and back.reason.endswith("back to step 8")
    # What the change itself did: rows of the window went with their layers.
    kept = [
        np.array_equal(a, b)
        for a, b in zip(watch.seen[8], states["now"], strict=True)
        if a.shape == b.shape
    ]
    assert all(kept) and len(kept) == len(watch.seen[8]) - 1
    assert all(np.isfinite(value).all() for value in values(model))
    # A spike is measured, a loss that is not finite is not.
    up = {change.layer for change in ups}
    assert up == (
        {"net/first"} if kind == "spike" else {"net/first", "net/last"}
    )


def test_what_a_later_callback_restores_is_followed():
    """What is at the top by then does not go up from where it was."""
    model = make()
    adaptive = AdaptivePrecision(every=2, rule=PrecisionRule(patience=1))
    restore = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: tfmp.set_precision(
            model, {"first": "float32"}
        )
    )
    fit(model, *data(4, (0, 4)), adaptive, restore)
    assert adaptive.changes == []
    assert [sample["net/first/bits"] for sample in adaptive.samples] == [32] * 2


def test_without_a_layer_to_go_up_nothing_is_done():
    model, (x, y) = make("float32"), data(12)
    y[6 * BATCH, 3] = np.nan
    adaptive = AdaptivePrecision(every=4)
    with pytest.warns(RuntimeWarning, match="no layer can go up") as told:
        model.fit(x, y, BATCH, verbose=0, callbacks=[adaptive])
    said = [str(each.message) for each in told]
    assert sum("no layer can go up" in text for text in said) == 1
    assert adaptive.changes == []


@pytest.mark.slow
def test_it_trains_as_bfloat16_where_fp8_stalls():
    found, shares = {}, []
    for policy in ("mixed_bfloat16", "mixed_float8", "adaptive"):
        adaptive = AdaptivePrecision(every=4, rule=PrecisionRule(quiet=99))
        adapts = policy == "adaptive"
        model = make("mixed_float8" if adapts else policy)
        x, y = data(320, (0, 320))
        fit(model, x, y, *[adaptive] * adapts)
        result = keras.ops.cast(model(x[-256:]), "float32")
        found[policy] = float(np.mean((result - y[-256:]) ** 2))
        shares = [sample["float8_share"] for sample in adaptive.samples]
    start = float(np.mean(y[-256:] ** 2))
    assert found["mixed_float8"] > 0.9 * start
    assert found["mixed_bfloat16"] < 0.5 * start
    assert found["adaptive"] < 1.1 * found["mixed_bfloat16"]
    assert np.mean(shares) >= 0.5
    assert {c.layer for c in adaptive.changes} == {"net/first"}


def test_hysteresis():
    rule = PrecisionRule(patience=2, quiet=2, max_changes=4)
    rung = Rung(0, 0, 2)

    def look(trouble, calm):
        way = rung.look(rule, trouble, calm)
        rung.stand(rung.at + {UP: 1, DOWN: -1, STAY: 0}[way])
        return way

    assert [look(True, False), look(False, True)] == [STAY, STAY]
    assert [look(True, False), look(True, False)] == [STAY, UP]
    assert [look(False, True), look(False, False)] == [STAY, STAY]
    assert [look(False, True), look(False, True)] == [STAY, DOWN]
    assert [look(True, False), look(True, False)] == [STAY, UP]
    # A second fall-back: the wait has doubled, and there is one change left,
    # so that it stays where it could not go up from again.
    assert rung.wait(rule) == 4 and rung.changes == 3
    assert {look(False, True) for _ in range(20)} == {STAY}
    assert [look(True, False), look(True, False)] == [STAY, UP]
    assert not rung.can_go_up(PrecisionRule(max_changes=4)) and rung.at == 2
    assert {look(True, False) for _ in range(9)} == {STAY}
    assert Rung(1, 1, 2).look(PrecisionRule(quiet=1), False, True) == STAY


def test_bounds():
    bounds = PrecisionBounds(0.25, 0.05, 10.0)
    assert not bounds.outside({"sqnr": 10.0, "underflow_share": math.nan})
    assert not bounds.outside({"sqnr": math.nan, "saturation_share": 0.05})
    assert bounds.outside({"sqnr": 9.9}) == "sqnr"
    said = trouble("a/grads", bounds, {"saturation_share": 0.125})
    assert said == "12.5% of gradients are clipped, more than 5.0%"


def test_a_loss_out_of_its_bound():
    watch, total = LossWatch(5.0, 16), 0.0
    rng = np.random.default_rng(0)
    usual = 1 + 0.1 * rng.normal(size=40)

    def look(n, loss):
        nonlocal total
        total += loss
        return watch.look(total / (n + 1), 1)

    assert not any(look(n, 50.0 * (n < 3)) for n in range(LEAST - 1))
    watch.begin_epoch()
    total = 0.0
    assert not any(look(n, loss) for n, loss in enumerate(usual))
    deviations = abs(usual[-16:] - np.median(usual[-16:]))
    bound = np.median(usual[-16:]) + 5 * 1.4826 * np.median(deviations)
    assert watch.bound == pytest.approx(bound, rel=1e-3)
    state = watch.get_state()
    assert not look(40, 9.0) and not watch.is_calm
    assert look(41, 9.0) == f"the loss is 9, above its bound of {bound:.4g}"
    assert "not finite" in look(42, math.nan) and not watch.is_finite
    watch.go_back(state, to_epoch=True)
    total = float(np.sum(usual))
    assert watch.is_calm and not look(40, 1.0) and watch.is_finite


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"ladder": ["float32"]}, ValueError, "`ladder` must be a list of two"),
        ({"ladder": "float32"}, TypeError, "`ladder` must be a list of two"),
        ({"ladder": ["float32", "mixed_float8"]}, ValueError, "`ladder` must"),
        ({"ladder": ["float32"] * 2}, ValueError, "`ladder` must be"),
        ({"ladder": ["bfloat16", "float32"]}, ValueError, "float32 variables"),
        ({"layers": []}, ValueError, "`layers` must be"),
        ({"layers": ["("]}, ValueError, "`layers` must be"),
        ({"every": 0}, ValueError, "`every` must be"),
        ({"rule": 3}, TypeError, "`rule` must be a tfmp"),
        ({"rollback": 0.5}, TypeError, "`rollback` must be a tfmp"),
        ({"elements": 0}, ValueError, "`elements` must be"),
    ],
)
def test_arguments_are_checked(arguments, error, said):
    with pytest.raises(error, match=said):
        AdaptivePrecision(**arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "said"),
    [
        (PrecisionRule, {"up": 0.5}, TypeError, "`up` must be"),
        (
            PrecisionRule,
            {"down": PrecisionBounds(sqnr=5.0)},
            ValueError,
            "`down` must not",
        ),
        (PrecisionRule, {"patience": 0}, ValueError, "`patience` must be"),
        (Rollback, {"window": 1}, ValueError, "`window` must be"),
        (Rollback, {"spike": 0.5}, ValueError, "`spike` must be"),
        (Rollback, {"keep_every": 0}, ValueError, "`keep_every` must be"),
    ],
)
def test_rules_are_checked(kind, arguments, error, said):
    with pytest.raises(error, match=said):
        kind(**arguments)


def test_after_a_return_no_layer_stands_lower_than_in_the_state():
    """It brings its own precision, which may be higher than what was noted."""
    model = make()
    rungs = [tfmp.Policy("mixed_float8"), tfmp.Policy("mixed_bfloat16")]
    ladder = Ladder(
        model, [*rungs, tfmp.Policy("float32")], PrecisionRule(), None
    )
    assert {rung.at for rung in ladder.rungs.values()} == {0}
    tfmp.set_precision(model, {"first": "mixed_bfloat16"})
    assert ladder.raised({}, "nan") == {
        "net/first": (1, "nan"),
        "net/last": (0, "nan"),
    }
    assert ladder.raised({"net/last": "dots"}, "nan") == {
        "net/first": (1, "nan"),
        "net/last": (1, "nan; dots"),
    }
    tfmp.set_precision(model, {"first": "float32"})
    assert ladder.raised({}, "nan")["net/first"] == (2, "nan")


def test_ladders():
    current = {"name": "mixed_float8", "recipe": "current"}
    ladder = checked_ladder(["mixed_float8", current, "mixed_bfloat16"])
    assert ladder[1].recipe == tfmp.recipes.CurrentScaling()
    with pytest.raises(ValueError, match="`ladder` must have the policy of"):
        fit(make("mixed_float16"), *data(1), AdaptivePrecision())
    with pytest.raises(ValueError, match="`ladder` must have the policy of"):
        fit(make(), *data(1), AdaptivePrecision(layers=["other"]))
