"""What Keras cannot do with a strategy: the errors it raises, or what it does.

A process of `replicas.py` runs these; nothing but `worker_collectives` has
tfmp in it, so that every limit here is one of Keras or TensorFlow.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import replicas
import tensorflow as tf
from replica_programs import ROWS, WIDTH, Trainer, hashes, message


def dense() -> keras.Sequential:
    return keras.Sequential([keras.Input([WIDTH]), keras.layers.Dense(1)])


def plain(
    strategy: Any, inner: dict[str, Any] | None = None, **options: Any
) -> keras.Model:
    """Returns a compiled model of Keras alone."""
    with strategy.scope():
        model = dense()
        optimizer = keras.optimizers.SGD(0.01, **inner or {})
        model.compile(optimizer, "mse", **{"jit_compile": False, **options})
    return model


def keras_limits(strategy: Any) -> dict[str, Any]:
    """What plain Keras cannot do under MirroredStrategy."""
    x, y, _ = [each[: 2 * ROWS] for each in replicas.data()]
    ema = {"use_ema": True, "ema_overwrite_frequency": 2}
    models = {
        "jit_compile": plain(strategy, jit_compile=True),
        "steps_per_execution": plain(strategy, steps_per_execution=2),
        "accumulation": plain(strategy, {"gradient_accumulation_steps": 2}),
        "ema": plain(strategy, ema),
    }
    found = {
        name: message(lambda: model.fit(x, y, ROWS, verbose=0))  # noqa: B023
        for name, model in models.items()
    }
    with strategy.scope():
        norm = keras.layers.BatchNormalization()
        norm.build([None, WIDTH])
    batch = next(iter(Trainer(strategy).batches(1)))
    strategy.run(lambda x, *_: norm(x, training=True), args=batch)
    found["averages"] = list(hashes(strategy, norm.variables).values())
    return found


def keras_distribution(strategy: Any) -> dict[str, Any]:
    """`keras.distribution`, for which the strategy is not used."""
    devices = keras.distribution.list_devices("cpu")
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices)
    )
    model = dense()
    keras.distribution.set_distribution(None)
    kernel = model.layers[0].kernel.value
    where = getattr(kernel, "device", None)
    return {"devices": devices, "type": type(kernel).__name__, "where": where}


def worker_limits(strategy: Any) -> dict[str, str]:
    """What Keras cannot do between workers, before tfmp is first used."""
    x, y, _ = [each[: 2 * ROWS] for each in replicas.data()]
    model = plain(strategy)
    found = {
        "fit": message(lambda: model.fit(x, y, ROWS, verbose=0)),
        "train_on_batch": message(lambda: model.train_on_batch(x, y)),
        "predict": message(lambda: predict_bfloat16(strategy, x)),
    }
    keras.backend.clear_session()  # names as in a new process
    return found


def worker_collectives(strategy: Any) -> list[str]:
    """What tfmp asks of XLA."""
    trainer = Trainer(strategy)
    batch = next(iter(trainer.batches(1)))
    graph = tf.function(trainer.run).get_concrete_function(batch).graph
    functions = graph.as_graph_def().library.function
    nodes = [graph.as_graph_def().node, *[f.node_def for f in functions]]
    operations = {node.op for each in nodes for node in each}
    return sorted(o for o in operations if "Collective" in o)


def predict_bfloat16(strategy: Any, x: np.ndarray) -> None:
    with strategy.scope():
        layer = keras.layers.Dense(1, dtype="mixed_bfloat16")
        model = keras.Sequential([keras.Input([WIDTH]), layer])
    model.predict(x, ROWS, verbose=0)


def generator(strategy: Any) -> float:
    """By how much `fit` changes the arrays that a generator yields parts of."""
    y = np.zeros([16 * ROWS, 1], "float32")
    start = -y.ctypes.data % 64 // 4  # where TensorFlow does not copy them
    y = y[start : start + 2 * ROWS]
    x = np.ones([2 * ROWS, WIDTH], "float32")

    def parts() -> Any:
        for begin in range(0, len(y), ROWS):
            rows = slice(begin, begin + ROWS)
            yield x[rows], y[rows]

    plain(strategy).fit(parts(), steps_per_epoch=1, verbose=0)
    return float(np.abs(y).max())
