"""The example `reinforcement`, and examples that train by an own loop."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

import tfmp
from examples import environments, reinforcement
from examples.environments import COUNT, GAMMA, LAMBDA, Environments, Played
from examples.harness import files, training
from examples.harness.example import Data, Example, Learned, Metric, Run
from examples.harness.settings import Settings, Size

FLOAT8, BFLOAT16 = "mixed_float8", "mixed_bfloat16"


def played(
    rewards: list[float],
    ended: list[bool] | None = None,
    done: list[bool] | None = None,
) -> Played:
    """Steps of one environment."""
    columns = [np.array(x or [False] * len(rewards)) for x in (ended, done)]
    given = np.array(rewards, "float32")
    empty = np.zeros(len(rewards), int)
    return Played(empty, empty, given, *columns, ~empty.astype(bool))


def test_advantages_are_sums_of_what_was_better_than_expected():
    values = np.array([0.5, 0.2, 0.1, 0.4], "float32")
    rewards = [1.0, 0.0, 2.0]
    better = (1 - GAMMA) * np.array(rewards) + GAMMA * values[1:] - values[:-1]
    fading = (GAMMA * LAMBDA) ** np.arange(3)
    expected = [better[at:] @ fading[: 3 - at] for at in range(3)]
    found = environments.advantages(played(rewards), values)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nothing_follows_an_end_and_a_value_follows_a_cut():
    values = np.array([0.5, 7.0, 0.1], "float32")
    for ends, follows in ((True, 0), (False, GAMMA * 7)):
        steps = played([1.0, 5.0], [ends, False], [True, False])
        found = environments.advantages(steps, values)
        assert found[0] == pytest.approx(1 - GAMMA + follows - 0.5)


def test_a_step_that_starts_an_episode_is_none():
    """A pole that is always pushed to one side falls: rewards are steps."""
    each = Environments(Size.SMOKE, seed=0)
    left = np.tile([1000.0, 0.0], (COUNT, 1))
    seen = each.play(lambda x: left)
    assert seen.observations.shape == (17, COUNT, 4)
    assert seen.ended.any(0).all() and seen.real[0].all()
    np.testing.assert_array_equal(seen.real[1:], ~seen.done[:-1])
    assert (seen.rewards[~seen.real] == 0).all()
    first = 1 + seen.done.argmax(0)
    assert {*first} <= {*each.finished}
    again = Environments(Size.SMOKE, seed=0).play(lambda x: left)
    np.testing.assert_array_equal(again.observations, seen.observations)


def test_the_loss_pushes_to_what_was_better_and_is_clipped():
    logits = np.zeros([2, 2], "float32")
    actions, gains = np.array([0, 1]), np.array([1.0, -1.0], "float32")
    half = np.full(2, np.log(0.5), "float32")

    def loss(by: float, before: np.ndarray) -> float:
        moved = logits + np.array([by, 0], "float32")
        return float(reinforcement.policy_loss(moved, actions, before, gains))

    assert loss(0.1, half) < loss(0, half) < loss(-0.1, half)
    entropy = reinforcement.ENTROPY * np.log(2)
    assert loss(0, half) == pytest.approx(-entropy, abs=1e-6)
    # Beyond the bounds of the ratio nothing is won any more.
    far = half + np.array([-0.5, 0.5], "float32")
    expected = -(1 + reinforcement.CLIP) / 2 + (1 - reinforcement.CLIP) / 2
    assert loss(0, far) == pytest.approx(expected - entropy, abs=1e-5)


@pytest.mark.slow_but(BFLOAT16)
@pytest.mark.parametrize("precision", [BFLOAT16, FLOAT8])
def test_both_networks_learn_by_their_own_optimizers(precision):
    """From probabilities that are those of the step: the ratio is 1."""
    made = reinforcement.EXAMPLE
    model = made.model(made.data(Size.SMOKE, pathlib.Path()))
    tfmp.convert(model, precision, filter="all")
    chosen = Run(
        seed=0,
        epochs=1,
        batch_size=64,
        size=Size.SMOKE,
        jit_compile=False,
        optimizer=lambda steps: training.with_loss_scale(
            precision, made.optimizer(steps)
        ),
    )
    trainer = reinforcement.Trainer(model, chosen)
    before = [x.numpy() for x in model.trainable_variables]
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    actions = np.arange(64) % 2
    chances = reinforcement.log_probabilities(trainer.logits(x)).numpy()
    gains = np.resize([1.0, -1.0], 64).astype("float32")
    loss = trainer.step(x, actions, chances[range(64), actions], gains, gains)
    entropy = -(np.exp(chances) * chances).sum(-1).mean()
    assert float(loss) == pytest.approx(
        -reinforcement.ENTROPY * entropy, abs=1e-4
    )
    for was, variable in zip(before, model.trainable_variables, strict=True):
        assert (was != variable.numpy()).any()
    policy, value = trainer.optimizers
    assert int(policy.iterations) == int(value.iterations) == 1


def small(**how: object) -> Example:
    parts = [(np.ones([8, 4], "float32"), np.ones([8, 2], "float32"))] * 2
    return Example(
        name="small",
        field="tests",
        says="a layer",
        data=lambda size, data_dir: Data(*parts),
        model=lambda data: keras.Sequential(
            [keras.Input([4]), keras.layers.Dense(2)]
        ),
        optimizer=lambda steps: keras.optimizers.SGD(0.1),
        epochs=2,
        batch_size=4,
        **how,
    )


def trained(example: Example, policy: str) -> dict[str, object]:
    data = example.data(Size.SMOKE, pathlib.Path())
    chosen = Settings(epochs=3, jit_compile=False)
    return training.train(example, policy, 0, data, chosen)


def test_an_own_loop_gets_the_converted_model_and_its_optimizers():
    seen = []

    def loop(model: keras.Model, data: Data, chosen: Run) -> Learned:
        seen.append((model.layers[-1].dtype_policy.name, chosen))
        return Learned([0.1, 0.2], [2.0, 1.0], step_ms=5.0, skipped_steps=3)

    made = small(loop=loop, metric=Metric("return", factor=10))
    run = trained(made, FLOAT8)
    [(policy, chosen)] = seen
    assert policy == FLOAT8
    assert (chosen.epochs, chosen.batch_size, chosen.seed) == (3, 4, 0)
    first, second = chosen.optimizer(10), chosen.optimizer(10)
    assert first is not second
    assert isinstance(first, tfmp.optimizers.LossScaleOptimizer)
    assert run["curve"] == [1.0, 2.0] and run["metric"] == 2.0
    assert (run["step_ms"], run["skipped_steps"]) == (5.0, 3)
    assert run["products"]["float8"] == run["products"]["all"] == 2


def test_a_missing_package_is_told():
    with pytest.raises(files.MissingDataError, match="pip install nothing_"):
        files.package("nothing_like_it", "Environments")


def test_a_metric_may_measure_the_model_after_each_epoch():
    counts = []

    def measure(model: keras.Model, data: Data) -> float:
        counts.append(int(model.optimizer.iterations))
        return counts[-1]

    metric = Metric("steps", factor=2, measure=measure)
    made = small(loss=keras.losses.MeanSquaredError, metric=metric)
    run = trained(made, "float32")
    assert counts == [2, 4, 6]
    assert run["curve"] == [4, 8, 12]
