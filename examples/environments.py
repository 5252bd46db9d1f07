"""Gymnasium's environments side by side, and what is seen in them.

The rewards of an episode are worth what generalized advantage estimates
(arXiv 1506.02438) say.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from examples.harness import files
from examples.harness.settings import Size

NAMES = {
    Size.SMOKE: "CartPole-v1",
    Size.USUAL: "CartPole-v1",
    Size.FULL: "Acrobot-v1",
}
STEPS = {Size.SMOKE: 16, Size.USUAL: 128, Size.FULL: 256}  # in an update
COUNT, LAST = 16, 32
GAMMA, LAMBDA = 0.99, 0.95


class Played(NamedTuple):
    """What was seen, [steps, environments, ...] each.

    Attributes:
        observations: with those after the last step.
        actions: what was done.
        rewards: what it gave.
        ended: no reward can follow.
        done: the same, or the time was up.
        real: False for a step that only started a new episode.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray
    done: np.ndarray
    real: np.ndarray


class Environments:
    """Environments side by side, which go on where they were left."""

    def __init__(self, size: Size, seed: int) -> None:
        gymnasium = files.package("gymnasium", "Environments")
        self.each = gymnasium.make_vec(
            NAMES[size], COUNT, vectorization_mode="sync"
        )
        self.steps = STEPS[size]
        self.observations, _ = self.each.reset(seed=seed)
        self.done = np.zeros(COUNT, bool)
        self.returns = np.zeros(COUNT)
        self.finished = collections.deque(maxlen=LAST)
        self.random = np.random.default_rng(seed)

    def play(self, policy: Callable[[np.ndarray], np.ndarray]) -> Played:
        """Plays on; `policy` returns logits, from which actions are drawn."""
        seen = []
        for _ in range(self.steps):
            before, real = self.observations, ~self.done
            logits = policy(before)
            actions = (logits + self.random.gumbel(size=logits.shape)).argmax(1)
            self.observations, rewards, ended, cut, _ = self.each.step(actions)
            self.done = ended | cut
            self.returns += rewards
            self.finished.extend(self.returns[self.done])
            self.returns[self.done] = 0
            seen.append((before, actions, rewards, ended, self.done, real))
        observations, *others = map(np.stack, zip(*seen, strict=True))
        return Played(np.stack([*observations, self.observations]), *others)

    def mean_return(self) -> float:
        """Of the last episodes that ended; of those that go on if none did."""
        return float(np.mean(self.finished or self.returns))


def advantages(played: Played, values: np.ndarray) -> np.ndarray:
    """Returns the generalized advantage estimates, [steps, environments]."""
    made, later = np.zeros_like(values[:-1]), 0.0
    for at in reversed(range(len(made))):
        target = (1 - GAMMA) * played.rewards[at]
        target += GAMMA * ~played.ended[at] * values[at + 1]
        later = ~played.done[at] * GAMMA * LAMBDA * later
        made[at] = later = target - values[at] + later
    return made
