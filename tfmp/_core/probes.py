"""A probe takes in the statistics of a contraction while a step runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfmp import recipes
from tfmp._core import statistics
from tfmp._keras import replicas
from tfmp._support import checks


class Probe:
    """Three vectors of statistics, one for each role of a contraction.

    An operator that is given a probe measures what it quantizes, in the same
    compiled function, and merges it into the probe.  Without one its program
    holds nothing of that.  A probe is outside of gradients: recomputed layers
    are measured twice, which changes no share.

    Under a `tf.distribute` strategy, make it in the strategy's scope; each
    replica then has vectors of its own, which reading merges.

    Args:
        elements: how many elements of each tensor to look at, about: whole
            rows, evenly spread.  A share has a standard error of
            `sqrt(p * (1 - p) / elements)` at most if they are independent.
            None for all.  The amax is always that of all.

    Raises:
        TypeError: if `elements` is no integer.
        ValueError: if it is less than 1.

    >>> from tfmp import ops
    >>> probe = ops.Probe()
    >>> looked_at = ops.Pass(probe=probe)
    >>> y = ops.matmul([[1.0, 1e-9]], tf.ones([2, 3]), amax=looked_at)
    >>> probe.read("current")["inputs"]["underflow_share"]
    0.5
    """

    def __init__(self, elements: int | None = 2**14) -> None:
        if elements is not None:
            checks.integer("elements", elements, 1)
        self.elements = elements
        self.variables = {
            role: replicas.local_variable(statistics.START)
            for role in recipes.ROLES
        }

    def taker(self, role: str) -> Callable[[tf.Tensor], None]:
        """Returns what merges the statistics of one more tensor in a role.

        It is for this graph, and for gradients of it: that of a branch of
        `tf.cond` reaches a variable only by what the branch has captured.
        """
        handle = self.variables[role].handle
        if not tf.executing_eagerly():
            handle = tf.compat.v1.get_default_graph().capture(handle)

        def take_in(vector: tf.Tensor) -> None:
            before = tf.raw_ops.ReadVariableOp(resource=handle, dtype="float32")
            after = statistics.merge(before, tf.stop_gradient(vector))
            tf.raw_ops.AssignVariableOp(resource=handle, value=after)

        return take_in

    def read(self, recipe: Any) -> dict[str, dict[str, float]]:
        """Returns what was measured, by role and name, and empties the probe.

        `tfmp.callbacks.ScaleMonitor` has the names.  Of replicas on other
        machines nothing is read.

        Args:
            recipe: that the operator ran by, a `tfmp.recipes` recipe or
                preset name.

        Returns:
            A dictionary for each role, empty where nothing was quantized.

        Raises:
            TypeError, ValueError: if `recipe` is no recipe.
        """
        recipe = recipes.get(recipe)
        [vectors] = arrays(reading([self]).numpy())
        return {
            role: statistics.describe(vector, recipe.format(role))
            for role, vector in vectors.items()
        }


class _Joined(Probe):
    """Two probes of one contraction, for who measures it at once."""

    def __init__(self, first: Probe, second: Probe) -> None:
        self._both = first, second
        most = [each.elements or math.inf for each in self._both]
        self.elements = None if math.inf in most else int(max(most))

    def taker(self, role: str) -> Callable[[tf.Tensor], None]:
        """Returns what merges into both."""
        takers = [each.taker(role) for each in self._both]

        def take_in(vector: tf.Tensor) -> None:
            for taker in takers:
                taker(vector)

        return take_in


def joined(first: Probe | None, second: Probe) -> Probe:
    """Returns a probe that merges what it takes in into both."""
    return second if first is None else _Joined(first, second)


def reading(probes: Sequence[Probe]) -> tf.Tensor:
    """Returns the vectors of some probes, and empties these, in a graph too.

    Returns:
        float32 of shape `[replicas, probes, 3, length of a vector]`.
    """
    every = [v for probe in probes for v in probe.variables.values()]
    values = replicas.taken(every, statistics.START)
    shape = [-1, len(probes), len(recipes.ROLES), len(statistics.START)]
    return tf.reshape(values, shape)


def arrays(values: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Merges the replicas' vectors: a dictionary by role for each probe."""
    summed = values[..., : statistics.SUMMED].sum(axis=0)
    largest = values[..., statistics.SUMMED :].max(axis=0)
    merged = np.concatenate([summed, largest], axis=-1)
    return [dict(zip(recipes.ROLES, rows, strict=True)) for rows in merged]
