"""How many updates are lost to rounding, where variables have 16 bits.

    bfloat16(1 + 1e-3) == 1

so that an update that is small beside its variable changes nothing, however
often it comes (arXiv 2010.06192, section 3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfmp._core import statistics
from tfmp._keras import optimizer_variables, replicas

LOW = ("bfloat16", "float16")
NOTHING = np.zeros([2], np.float32)


class UpdateProbe:
    """Two sums: weights with a gradient, and those it left unchanged.

        share = unchanged weights with a gradient / weights with a gradient

    of the variables of 16 bits, in the steps that are watched.  Of steps that
    are skipped, and of micro-batches that only accumulate, nothing counts.

    Args:
        elements: how many elements of each variable to look at, about; None
            for all.
    """

    def __init__(self, elements: int | None = None) -> None:
        self._elements = elements
        self._sums = replicas.local_variable(NOTHING)

    @staticmethod
    def concerns(variable: Any) -> bool:
        """Whether updates of a variable can be lost."""
        return str(variable.dtype) in LOW

    @contextlib.contextmanager
    def watching(
        self, optimizer: Any, updates: tuple[Sequence[Any], Sequence[Any]]
    ) -> Iterator[None]:
        """Compares the variables before and after what is done inside.

        Args:
            optimizer: the inner one, which applies the gradients inside.
            updates: the gradients, None where there is none, and the
                variables, of any dtype.
        """
        pairs = [
            (tf.convert_to_tensor(g), v)
            for g, v in zip(*updates, strict=True)
            if g is not None and self.concerns(v)
        ]
        before = [tf.identity(self._some(v)) for _, v in pairs]
        yield
        counts = tf.zeros([2])
        for (gradient, variable), was in zip(pairs, before, strict=True):
            has_one = self._some(gradient) != 0
            same = self._some(variable) == was
            counts += tf.stack([_count(has_one & same), _count(has_one)])
        updated = optimizer_variables.starts_accumulation(optimizer)
        self._sums.assign(
            self._sums.read_value() + tf.where(updated, counts, 0.0)
        )

    def _some(self, x: Any) -> tf.Tensor:
        return statistics.rows(tf.convert_to_tensor(x), self._elements)

    def reading(self) -> tf.Tensor:
        """Returns the sums of each replica here, `[replicas, 2]`; empties."""
        return replicas.taken([self._sums], NOTHING)[:, 0]

    @staticmethod
    def share(sums: np.ndarray) -> float:
        """Returns the share that sums of `reading` stand for."""
        lost, every = sums.sum(axis=0).tolist()
        return lost / every if every else float("nan")


@contextlib.contextmanager
def watched(probes: Sequence[UpdateProbe], *arguments: Any) -> Iterator[None]:
    """Has each of the probes watch; see `UpdateProbe.watching`."""
    with contextlib.ExitStack() as stack:
        for probe in probes:
            stack.enter_context(probe.watching(*arguments))
        yield


def _count(condition: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(condition, tf.float32))
