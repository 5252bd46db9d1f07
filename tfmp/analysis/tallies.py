"""Sums over batches, of which the errors of an analysis are made."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Key = tuple[str, str, str]  # layer, role, candidate
GROUPS = 2  # of gradients: a layer's inputs, its weights


class Tally:
    """What was found of each layer, role and candidate so far."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[Key, str], np.ndarray] = {}
        self._changes: dict[Key, list[tuple[float, float, int]]] = (
            collections.defaultdict(list)
        )

    def add_pair(
        self, key: Key, name: str, exact: Sequence[Any], low: Sequence[Any]
    ) -> None:
        """Takes in tensors and what became of them.

        Args:
            key: whose they are.
            name: what they are.
            exact: tensors; None counts for nothing.
            low: those in the lower precision.
        """
        before = self._pairs.get((key, name), np.zeros(4))
        self._pairs[key, name] = before + _sums(exact, low)

    def add_change(
        self, key: Key, change: float, square: float, samples: int
    ) -> None:
        """Takes in what became of the loss of a batch.

        Args:
            key: who changed it.
            change: of the mean loss.
            square: mean over the samples of the squared change of each.
            samples: in the batch.
        """
        self._changes[key].append((change, square, samples))

    def keys(self) -> set[Key]:
        """Returns whom anything is known of."""
        return {key for key, _ in self._pairs}

    def error(self, key: Key, name: str) -> float:
        """Returns `norm(low - exact) / norm(exact)`; NaN without any."""
        signal, _, _, noise = self._pairs.get((key, name), np.zeros(4))
        found: float = _ratio(noise, signal) ** 0.5
        return found

    def cosine(self, key: Key, name: str) -> float:
        """Returns the cosine between exact and low; NaN without any."""
        exact, low, both, _ = self._pairs.get((key, name), np.zeros(4))
        return _ratio(both, math.sqrt(exact) * math.sqrt(low))

    def change(self, key: Key) -> float:
        """Returns the mean change of the loss."""
        return self._mean(key, 0)

    def square(self, key: Key) -> float:
        """Returns the mean squared change of a sample's loss."""
        return self._mean(key, 1)

    def _mean(self, key: Key, column: int) -> float:
        rows = np.array(self._changes[key], dtype=np.float64)
        if not len(rows):
            return math.nan
        return float(np.average(rows[:, column], weights=rows[:, 2]))


def decibels(error: float) -> float:
    """Returns a relative error as a signal-to-noise ratio in dB.

    >>> decibels(0.1)
    20.0
    """
    return math.inf if error == 0 else -20 * math.log10(error)


def _ratio(part: float, whole: float) -> float:
    if not math.isfinite(part) or not math.isfinite(whole):
        return math.nan
    return float(part / whole) if whole else math.nan


def _sums(exact: Sequence[Any], low: Sequence[Any]) -> np.ndarray:
    """Returns sums of exact**2, low**2, exact * low and (low - exact)**2."""
    total = tf.zeros([4], tf.float64)
    for a, b in zip(exact, low, strict=True):
        if a is None or b is None:
            continue
        a, b = (tf.cast(tf.convert_to_tensor(x), tf.float64) for x in (a, b))
        each = (a * a, b * b, a * b, tf.square(b - a))
        total += tf.stack([tf.reduce_sum(x) for x in each])
    found: np.ndarray = total.numpy()
    return found
