"""What replicas of a `tf.distribute` strategy agree on, or keep apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def parts(model: keras.Model, variable: keras.Variable) -> Any:
    """Returns a variable's copies on all replicas, which need not be alike."""
    strategy = model.distribute_strategy
    return strategy.experimental_local_results(variable.value)


def between_workers(strategy: Any) -> bool:
    """Whether the replicas of a strategy are in several processes."""
    kind = tf.distribute.MultiWorkerMirroredStrategy
    several = isinstance(strategy, kind)
    return several and strategy.extended._in_multi_worker_mode()


def of_all_workers(strategy: Any, values: Sequence[int]) -> list[list[int]]:
    """Returns the integers of each worker, when all of them have come here.

    Args:
        strategy: alone, its only worker is this one.
        values: those of this worker; as many on each.
    """
    if not between_workers(strategy):
        return [list(values)]
    here = len(strategy.extended.worker_devices)
    own = strategy.run(lambda: tf.constant([list(values)], tf.int64))
    rows: list[list[int]] = strategy.gather(own, axis=0).numpy().tolist()
    return rows[::here]


def wait_for_workers(model: keras.Model) -> None:
    """Returns when all workers that train a model have come here."""
    of_all_workers(model.distribute_strategy, [0])


def local_variable(start: np.ndarray) -> tf.Variable:
    """Returns a variable of which each replica reads and writes its own.

    Args:
        start: its first value.  Call it in the strategy's scope.
    """
    return tf.Variable(
        start,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.NONE,
    )


def taken(variables: Sequence[Any], start: np.ndarray) -> tf.Tensor:
    """Returns the values of local variables, and starts them anew.

    Args:
        variables: of `local_variable`, all of one shape.
        start: their value afterwards.

    Returns:
        Tensor of shape `[replicas, variables, ...]`: of all workers.
    """
    every = [getattr(v, "values", (v,)) for v in variables]
    values = [
        tf.stack([v.read_value() for v in own])
        for own in zip(*every, strict=True)
    ]
    with tf.control_dependencies(values):
        for own in every:
            for variable in own:
                variable.assign(start)
    strategy = getattr(variables[0], "distribute_strategy", None)
    if strategy is None or not between_workers(strategy):
        return tf.stack(values)
    return _gathered(strategy, values)


def _gathered(strategy: Any, values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the values of the replicas here, and those of other workers."""
    own = strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group % len(values)]
    )
    rows = strategy.run(lambda value: value[None], args=(own,))
    return strategy.gather(rows, axis=0)


def maximum(x: tf.Tensor) -> tf.Tensor:
    """Returns the elementwise maximum over all replicas; alone, `x` itself.

    Args:
        x: tensor of the same known rank on every replica, without NaN.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    # XLA has no gather between devices: a sum of rows, zero but for one's own.
    rows = tf.range(context.num_replicas_in_sync)
    mine = tf.equal(rows, context.replica_id_in_sync_group)
    mine = tf.reshape(mine, [-1, *[1] * x.shape.rank])
    each = tf.where(mine, x, tf.zeros_like(x))
    every = context.all_reduce(tf.distribute.ReduceOp.SUM, each)
    return tf.reduce_max(every, axis=0)


def mean(x: tf.Tensor) -> tf.Tensor:
    """Returns the mean over all replicas; alone, `x` itself.

    Args:
        x: floating-point tensor of the same shape on every replica.

    Returns:
        Tensor like `x`, which is finite only where `x` is on every replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    # Between two workers there is no reduction of bfloat16.
    wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    total = context.all_reduce(tf.distribute.ReduceOp.MEAN, wide)
    return tf.cast(total, x.dtype)
