"""Training on several replicas: real strategies, in processes of their own."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import replica_programs
import replicas
import tensorflow as tf

from tfmp._core.observations import ASSUMED, SEEN, SINCE

pytestmark = pytest.mark.slow
INPUTS, KERNEL, GRADS = range(3)
AMAX = "sequential/first/float8/amax"
STRATEGIES = {"2": 2, "4": 4, "workers": 2}
MAY_CHANGE = ("amax", "scale", "step", "overflow", "skipped")
TWO = (
    *("steps", "many_steps", "compiled", "accumulated", "fit", "converted"),
    *(
        "converted_without",
        "statistics",
        "keras_limits",
        "keras_distribution",
        "emulated",
        "unlike",
        "generator",
    ),
)


def two() -> dict[str, Any]:
    """All that runs under MirroredStrategy over two devices."""
    return replicas.mirrored(2, *TWO)


def workers() -> list[dict[str, Any]]:
    every = ("worker_limits", "steps", "worker_collectives")
    return replicas.workers(2, *every)


def joined(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the steps of all processes, with the replicas of all in one."""
    result = []
    for found in zip(*[each["steps"] for each in processes], strict=True):
        step = {"state": found[0]["state"]}
        for kind in ("hashes", "local"):
            parts = [each.get(kind, {}) for each in found]
            step[kind] = {
                name: list(itertools.chain(*[each[name] for each in parts]))
                for name in parts[0]
            }
        result.append(step)
    return result


def differing(hashes: dict[str, list[str]], number: int) -> list[str]:
    """Returns the variables that are not alike on `number` replicas."""
    return [
        path
        for path, parts in hashes.items()
        if len(parts) != number or len(set(parts)) != 1
    ]


@pytest.fixture(scope="module", params=STRATEGIES)
def run(request) -> tuple[int, list[dict[str, Any]]]:
    """The number of replicas, and every step from the state before it on."""
    if request.param == "workers":
        return 2, joined(workers())
    number = STRATEGIES[request.param]
    found = two() if number == 2 else replicas.mirrored(number, "steps")
    return number, joined([found])


@pytest.fixture(scope="module")
def alone() -> list[dict[str, Any]]:
    """The same steps without a strategy, on whole batches."""
    keras.backend.clear_session()  # names as in a new process
    return replica_programs.steps(tf.distribute.get_strategy())


def own(state: dict[str, Any], name: str) -> Any:
    """Returns a variable of the optimizer."""
    return state[f"loss_scale_optimizer/{name}"]


def transitions(steps: list[dict[str, Any]], kind: str | None = None) -> Any:
    """Yields (row, state before, state after, what each replica saw)."""
    pairs = zip(replicas.KINDS, steps, steps[1:], strict=False)
    for (each, row), before, after in pairs:
        if kind in (None, each):
            local = {k: np.asarray(v) for k, v in after["local"].items()}
            yield row, before["state"], after["state"], local


def test_differing_sees_what_differs():
    hashes = {"same": ["a", "a"], "differs": ["a", "b"], "one": ["a"]}
    assert differing(hashes, 2) == ["differs", "one"]


def test_replicas_hold_one_state_after_every_step(run):
    number, steps = run
    assert len(steps) == len(replicas.KINDS) + 1
    for step in steps:
        assert len(step["hashes"]) >= 20
        assert differing(step["hashes"], number) == []


def test_each_replica_observes_its_data(run):
    number, steps = run
    x = replicas.data()[0].reshape([len(replicas.KINDS), number, -1])
    expected = np.abs(x).max(axis=2)  # NaN counts as infinite.
    expected = np.where(np.isnan(expected), np.inf, expected)
    seen = [local["observed"][:, INPUTS] for *_, local in transitions(steps)]
    np.testing.assert_array_equal(seen, expected)
    # The largest stands in the last replica, in the first, and between.
    assert len(set(expected[:3].argmax(axis=1))) == min(number, 3)


def test_amax_is_the_maximum_over_replicas(run):
    for _, before, after, local in transitions(run[1], "good"):
        growth = own(after, "dynamic_scale") / own(before, "dynamic_scale")
        row = local["observed"].max(axis=0) * [1, 1, growth]
        history = np.asarray(own(after, "amax_history"))
        np.testing.assert_array_equal(history[0, 0], row)
        assumed = history[:, 0].max(axis=0)
        np.testing.assert_array_equal(after[AMAX][ASSUMED], assumed)
        assert not np.any([after[AMAX][row] for row in (SEEN, SINCE)])


@pytest.mark.parametrize("kind", ["data", "gradient"])
def test_a_bad_replica_skips_the_step_on_all(run, kind):
    number, steps = run
    for row, before, after, local in transitions(steps, kind):
        seen = np.concatenate([local["gradient"], local["observed"]], axis=1)
        bad = np.flatnonzero(~np.isfinite(seen).all(axis=1))
        assert list(bad) == [row * number // replicas.ROWS]
        assert np.isfinite(local["observed"]).all() == (kind == "gradient")
        changed = [path for path in before if before[path] != after[path]]
        assert changed
        for path in changed:
            assert any(name in path for name in MAY_CHANGE), path
        assert own(after, "skipped_steps") == own(before, "skipped_steps") + 1
        assert own(after, "step_counter") == 0
        assert own(after, "dynamic_scale") == own(before, "dynamic_scale") / 2
        assert not np.any([after[AMAX][row] for row in (SEEN, SINCE)])
        for old, new in (
            [own(state, "amax_history") for state in (before, after)],
            [state[AMAX][ASSUMED] for state in (before, after)],
        ):
            np.testing.assert_array_equal(new, np.asarray(old) * [1, 1, 0.5])


def test_the_loss_scale_grows_and_backs_off(run):
    states = [step["state"] for step in run[1]]
    scales = np.log2([own(state, "dynamic_scale") for state in states])
    down = list(range(15, 7, -1))
    assert scales.tolist() == [15, 15, 15, 16, *down, 8, 8, 9, 9]
    last = states[-1]
    assert own(last, "step_counter") == 1
    assert own(last, "skipped_steps") == 8
    assert last["sgd/iteration"] == 7


def test_averages_of_batch_normalization_are_the_mean_over_replicas(run):
    number, steps = run
    x = replicas.data()[0].astype("float64")
    x = x.reshape([len(replicas.KINDS), number, -1, replicas.WIDTH])
    mean, variance = np.zeros(replicas.WIDTH), np.ones(replicas.WIDTH)
    kinds = [kind for kind, _ in replicas.KINDS]
    for kind, batch, step in zip(kinds, x, steps[1:], strict=True):
        if kind == "good":  # All that a skipped step did is undone.
            mean = (mean + batch.mean(axis=(0, 1))) / 2
            variance = (variance + batch.var(axis=1).mean(axis=0)) / 2
        state = step["state"]
        for name, value in (("mean", mean), ("variance", variance)):
            found = state[f"norm/moving_{name}"]
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)


def test_the_first_step_is_that_of_one_replica_with_the_batch(run, alone):
    """Gradients of an FP8 product are rounded to bfloat16, 2**-8 at most.

    So are the summands of each replica, and the whole.  All else is float32.
    """
    _, before, after, local = next(transitions(run[1]))
    _, _, expected, whole = next(transitions(alone))
    each, whole = local["gradient"], whole["gradient"][0]
    summands = np.abs(each).sum(axis=0)
    bound = 2**-8 * (summands + np.abs(whole)) + 1e-6 * summands.max()
    assert np.all(np.abs(each.sum(axis=0) - whole) <= bound)
    bound = bound.max() * 0.01 + 1e-7  # by the learning rate
    for path, value in expected.items():
        if "variance" not in path:  # That of each replica's batch.
            atol = bound if "first" in path and path != AMAX else 1e-7
            np.testing.assert_allclose(
                after[path], value, rtol=1e-6, atol=atol, err_msg=path
            )
    assert before["sequential/first/kernel"] != after["sequential/first/kernel"]


def test_training_follows_that_of_one_replica(run, alone):
    """Later an operand may round to its neighbour in E4M3, 2**-4 off."""
    for mine, other in zip(
        transitions(run[1]), transitions(alone), strict=True
    ):
        (*_, state, local), (*_, expected, whole) = mine, other
        loss, exact = local["loss"].sum(), whole["loss"].sum()
        if np.isfinite(exact):
            np.testing.assert_allclose(loss, exact, rtol=2**-4)
        for name in ("dynamic_scale", "skipped_steps", "step_counter"):
            assert own(state, name) == own(expected, name)
        np.testing.assert_array_equal(
            state[AMAX][ASSUMED][INPUTS], expected[AMAX][ASSUMED][INPUTS]
        )


def test_fit_with_clipping_averages_and_rows_left_over():
    found = two()["fit"]
    assert len(found["hashes"]) == 6
    assert [differing(each, 2) for each in found["hashes"]] == [[]] * 6
    assert found["iterations"] == 4 and found["skipped"] == 2
    assert found["scale"] == 2.0**14  # Two bad steps; three good ones, not 4.
    for ours, plain in (found["predicted"], found["losses"]):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_converted_model_and_its_file():
    found = two()["converted"]
    apart = {p for each in found["hashes"] for p in differing(each, 2)}
    assert not apart
    assert found["iterations"] == 2 and found["skipped"] == 2
    last = found["hashes"][-1]
    kept = [v for p, v in last.items() if "float8" not in p]
    loaded = [each[0] for each in found["loaded"]]
    assert len(kept) > 20 and all(each[0] in loaded for each in kept)
    assert all(len(set(each)) == 1 for each in found["loaded"])
    check_amax(found, 2)


def test_a_converted_model_with_an_optimizer_of_keras():
    """Each replica scales by what it saw; weights are alike."""
    found = two()["converted_without"]
    apart = {p for each in found["hashes"] for p in differing(each, 2)}
    assert apart and all("float8" in path for path in apart)
    assert found["iterations"] == 4 and "skipped" not in found
    assert all(len(set(each)) == 1 for each in found["loaded"])
    check_amax(found, 3)


def check_amax(found: dict[str, Any], kinds: int) -> None:
    """That a file has what is assumed, and puts it on each replica."""
    own, loaded = (np.asarray(each) for each in found["amax"])
    assert own.shape[0] == loaded.shape[0] == 3 and (own > 0).all()
    alike = np.array_equal(own[0], own[1])
    assert alike == (kinds == 2)
    for each in loaded:
        np.testing.assert_array_equal(each, own[2])


def test_replicas_with_unlike_data_and_an_optimizer_of_keras():
    """Each scales by what it saw itself."""
    found = two()["unlike"]
    assert found["mixed_float8"] == pytest.approx(
        found["mixed_bfloat16"], rel=0.15
    )


def test_the_numbers_of_the_optimizer_can_be_read():
    assert two()["statistics"] == ""


# What Keras cannot do, by the first words of its error, and another way.


def test_steps_per_execution():
    found = two()
    assert (
        "You must feed a value" in found["keras_limits"]["steps_per_execution"]
    )
    third = found["steps"][3]["state"]
    many = found["many_steps"]
    assert differing(many["hashes"], 2) == []
    for mine, value in zip(many["state"].values(), third.values(), strict=True):
        np.testing.assert_array_equal(mine, value)


def test_jit_compile():
    found = two()
    assert "Trying to access resource" in found["keras_limits"]["jit_compile"]
    compiled, third = found["compiled"], found["steps"][3]["state"]
    assert differing(compiled["hashes"], 2) == []
    for mine, path in zip(compiled["state"].values(), third, strict=True):
        if "norm" not in path:  # Not part of that loop.
            np.testing.assert_allclose(
                mine, third[path], rtol=2**-4, atol=2**-4 * np.max(np.abs(mine))
            )


@pytest.mark.parametrize("limit", ["accumulation", "ema"])
def test_optimizers_with_a_condition(limit):
    assert "`merge_call` called while" in two()["keras_limits"][limit]


def test_gradient_accumulation_in_an_eager_loop():
    before, first, second, third = two()["accumulated"]
    for each in (first, second, third):
        # Each replica adds up its own gradients until there is an update.
        apart = differing(each["hashes"], 2)
        assert bool(apart) == (each is not second)
        assert all("accumulator" in path for path in apart)
    kernels = [
        next(v for p, v in each["state"].items() if p.endswith("first/kernel"))
        for each in (before, first, second, third)
    ]
    assert kernels[0] == kernels[1] != kernels[2] == kernels[3]


def test_emulated_layers():
    """Each replica rounds its own rows; what they make of it is the same."""
    found = two()["emulated"]
    assert all(differing(each, 2) == [] for each in found["hashes"])
    every = found["weights"], found["alone"], found["first"]
    for mine, alone, first in zip(*every, strict=True):
        np.testing.assert_allclose(mine, alone, rtol=1e-5, atol=1e-6)
        assert np.abs(np.subtract(mine, first)).max() > 1e-3
    assert found["skipped"] == 0


def test_averages_of_keras_batch_normalization_differ():
    gamma, beta, *averages = two()["keras_limits"]["averages"]
    assert [len(set(each)) for each in (gamma, beta)] == [1, 1]
    assert [len(set(each)) for each in averages] == [2, 2]


def test_keras_distribution_does_nothing():
    found = two()["keras_distribution"]
    assert found["devices"] == ["cpu:0", "cpu:1"]
    assert found["type"] == "ResourceVariable"
    assert found["where"].endswith("CPU:0")


def test_fit_between_workers():
    """What tfmp mends: see `test_worker_fit.py`."""
    for process in workers():
        found = process["worker_limits"]
        assert "Attempt to convert a value (PerReplica" in found["fit"]
        assert "Invalid reduction dimension 0" in found["train_on_batch"]
        assert "has DataType bfloat16 not in list" in found["predict"]


def test_a_step_has_no_collective_that_xla_has_not():
    for process in workers():
        assert process["worker_collectives"] == ["CollectiveReduceV2"]


def test_keras_writes_into_what_a_generator_yields():
    assert two()["generator"] > 0
