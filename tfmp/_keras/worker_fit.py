"""Keras' `fit`, `evaluate` and `predict` between workers.

Under `MultiWorkerMirroredStrategy` Keras 3.15 fails at three places.  It builds
a model from a batch, and reduces a whole structure of replicas' values as if
it were one; it takes the mean of scalars over an axis, which they lack; and
between workers nothing can gather bfloat16.  Data of which one worker has more
batches end in a collective that no other takes part in, so that is refused.
`tests/test_worker_fit.py` tells.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer

from tfmp._keras import replicas


def install() -> None:
    """Has all Keras models train between workers; else they do as before."""
    owner: Any = trainer.TensorFlowTrainer
    owner._maybe_symbolic_build = _build(owner._maybe_symbolic_build)
    trainer.reduce_per_replica = _reduce(trainer.reduce_per_replica)
    data: Any = trainer.TFEpochIterator
    data.__init__ = _init(data.__init__)


def _init(stock: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        """Takes data as Keras does, if all workers have as many batches."""
        stock(self, *args, **kwargs)
        strategy = self._distribute_strategy
        numbers = replicas.of_all_workers(strategy, [self.num_batches or -1])
        if any(each != numbers[0] for each in numbers):
            told = ["unknown" if n < 0 else n for [n] in numbers]
            raise ValueError(
                "`x` must have as many batches on each worker: give all of "
                "them the same data, of which TensorFlow takes each its part, "
                "or the same `steps_per_epoch`. Received: numbers of batches "
                f"{', '.join(map(str, told))}, by worker"
            )

    return init


def _build(stock: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def maybe_symbolic_build(
        self: Any, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Builds as Keras does; between workers, without drawing a batch."""
        strategy = self.distribute_strategy
        if iterator is None or not replicas.between_workers(strategy):
            stock(self, iterator, data_batch)
            return
        spec = iterator._distributed_dataset.element_spec
        with strategy.scope():
            self._symbolic_build(
                data_batch=keras.tree.map_structure(_own, spec)
            )

    return maybe_symbolic_build


def _own(spec: Any) -> Any:
    """Returns what one replica gets."""
    return getattr(spec, "_value_specs", (spec,))[0]


def _reduce(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
        """Reduces as Keras does; between workers, scalars and bfloat16 too."""
        if not replicas.between_workers(strategy):
            return stock(values, strategy, reduction)

        def reduced(value: Any) -> Any:
            if reduction in ("auto", "mean"):
                return strategy.reduce("MEAN", value, axis=None)
            return stock(value, strategy, reduction)

        def wide(value: Any) -> Any:
            if getattr(value, "dtype", None) != tf.bfloat16:
                return reduced(value)
            value = strategy.run(tf.cast, args=(value, tf.float32))
            return tf.cast(reduced(value), tf.bfloat16)

        return keras.tree.map_structure(wide, values)

    return reduce_per_replica
