"""Reinforcement: PPO learns to balance a pole; with `--full`, to swing up.

Proximal policy optimization (arXiv 1707.06347) with generalized advantage
estimates (arXiv 1506.02438) in Gymnasium's CartPole-v1, or Acrobot-v1.  The
policy and the value function are networks of their own, each with its
optimizer; the training loop is written here, as docs/guides/own_loop.md says.

An epoch is an update: sixteen environments are played for a while, then both
networks train on what was seen, in ten passes.  The metric is the mean return
of the last episodes that ended.  Rewards are taken times 1 - GAMMA, so that
values are of the size of one reward.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from examples.environments import (
    COUNT,
    STEPS,
    Environments,
    Played,
    advantages,
)
from examples.harness.example import Data, Example, Learned, Metric, Run
from examples.harness.settings import Size

PASSES, WIDTH, CLIP, ENTROPY = 10, 64, 0.2, 0.01


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Observations and actions by chance: the sizes of the networks."""
    environments = Environments(size, seed=0)
    actions = environments.each.single_action_space.n
    played = environments.play(lambda x: np.zeros([COUNT, actions]))
    x = np.concatenate(played.observations[:-1])
    part = (x, np.concatenate(played.actions))
    return Data(part, part)


def model(data: Data) -> keras.Model:
    """The policy and the value function, side by side."""
    observations, actions = data.train
    start = keras.Input(observations.shape[1:])
    policy = network(start, 1 + actions.max(), 0.01, "policy")
    value = network(start, 1, 1.0, "value")
    return keras.Model(start, [policy(start), value(start)], name="ppo")


def network(start: Any, width: int, gain: float, name: str) -> keras.Model:
    """Two hidden layers; the gain is that of the last layer's kernel."""
    x = start
    for _ in range(2):
        wide = keras.initializers.Orthogonal(2**0.5)
        x = layers.Dense(WIDTH, "tanh", kernel_initializer=wide)(x)
    last = keras.initializers.Orthogonal(gain)
    x = layers.Dense(int(width), kernel_initializer=last)(x)
    return keras.Model(start, x, name=name)


def log_probabilities(logits: Any) -> tf.Tensor:
    return tf.nn.log_softmax(tf.cast(logits, tf.float32))


def policy_loss(logits: Any, actions: Any, before: Any, gains: Any) -> Any:
    """The clipped surrogate, and a bonus for entropy.

    Args:
        logits: of the policy, in any precision.
        actions: what was done.
        before: logarithms of the probabilities with which it was done.
        gains: the advantages.
    """
    chances = log_probabilities(logits)
    ratio = tf.exp(tf.gather(chances, actions, batch_dims=1) - before)
    clipped = tf.clip_by_value(ratio, 1 - CLIP, 1 + CLIP)
    gains = (gains - tf.reduce_mean(gains)) / (tf.math.reduce_std(gains) + 1e-8)
    surrogate = tf.reduce_mean(tf.minimum(ratio * gains, clipped * gains))
    entropy = -tf.reduce_mean(tf.reduce_sum(tf.exp(chances) * chances, -1))
    return -surrogate - ENTROPY * entropy


class Trainer:
    """Both networks with their optimizers: a step of each."""

    def __init__(self, model: keras.Model, chosen: Run) -> None:
        self.policy, self.value = map(model.get_layer, ("policy", "value"))
        batches = COUNT * STEPS[chosen.size] // chosen.batch_size
        steps = chosen.epochs * PASSES * batches
        self.optimizers = [chosen.optimizer(steps) for _ in range(2)]
        for optimizer, network in zip(
            self.optimizers, (self.policy, self.value), strict=True
        ):
            optimizer.build(network.trainable_variables)
        self.step, self.logits, self.values = (
            tf.function(each, jit_compile=chosen.jit_compile)
            for each in (self._step, self.policy, self.value)
        )

    def _step(
        self, x: Any, actions: Any, before: Any, gains: Any, returns: Any
    ) -> tf.Tensor:
        of_policy, of_value = self.optimizers
        with tf.GradientTape() as tape:
            logits = self.policy(x, training=True)
            loss = policy_loss(logits, actions, before, gains)
            scaled = of_policy.scale_loss(loss)
        variables = self.policy.trainable_variables
        of_policy.apply(tape.gradient(scaled, variables), variables)
        with tf.GradientTape() as tape:
            values = tf.cast(self.value(x, training=True)[:, 0], tf.float32)
            scaled = of_value.scale_loss(
                tf.reduce_mean((values - returns) ** 2)
            )
        variables = self.value.trainable_variables
        of_value.apply(tape.gradient(scaled, variables), variables)
        return loss

    def samples(self, played: Played) -> list[np.ndarray]:
        """Returns what `step` takes, of all real steps."""
        shape = played.actions.shape
        x = np.concatenate(played.observations)
        values = self.values(x).numpy().astype("float32")
        values = values.reshape([-1, COUNT])
        x = x[: played.actions.size]
        actions = played.actions.ravel()
        chances = log_probabilities(self.logits(x)).numpy()
        before = chances[np.arange(len(x)), actions].reshape(shape)
        gains = advantages(played, values)
        parts = (before, gains, gains + values[:-1])
        real = played.real.ravel()
        return [each[real] for each in (x, actions, *map(np.ravel, parts))]


def loop(model: keras.Model, data: Data, chosen: Run) -> Learned:
    """Plays and trains in turns."""
    environments = Environments(chosen.size, chosen.seed)
    trainer = Trainer(model, chosen)
    curve, losses, seconds = [], [], []

    def logits(x: np.ndarray) -> np.ndarray:
        return trainer.logits(x).numpy().astype("float32")

    for epoch in range(chosen.epochs):
        played = trainer.samples(environments.play(logits))
        found = []
        for rows in minibatches(len(played[0]), chosen, environments.random):
            batch = [each[rows] for each in played]
            start = time.perf_counter()
            found.append(float(trainer.step(*batch)))
            seconds.append(time.perf_counter() - start)
        losses.append(float(np.mean(found)))
        curve.append(environments.mean_return())
        if epoch % 10 == 9:
            print(f"update {epoch + 1}: mean return {curve[-1]:.1f}")
    skipped = sum(
        int(getattr(each, "skipped_steps", 0)) for each in trainer.optimizers
    )
    warm = len(seconds) // chosen.epochs
    return Learned(curve, losses, 1000 * np.median(seconds[warm:]), skipped)


def minibatches(
    count: int, chosen: Run, random: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields the rows of full batches, in another order each pass."""
    for _ in range(PASSES):
        rows = random.permutation(count)
        for at in range(0, count - chosen.batch_size + 1, chosen.batch_size):
            yield rows[at : at + chosen.batch_size]


EXAMPLE = Example(
    name="reinforcement",
    field="reinforcement learning",
    says="PPO in Gymnasium",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.Adam(
        keras.optimizers.schedules.PolynomialDecay(1e-3, steps, 0.0),
        global_clipnorm=0.5,
    ),
    loop=loop,
    metric=Metric("mean return", digits=1),
    epochs=40,
    batch_size=256,
)
