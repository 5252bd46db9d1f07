"""`compare`: models, or a model in several policies, beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import _inspection
from tfmp._comparing import machine, measuring, variants
from tfmp._comparing.comparison import ComparedModel, Comparison
from tfmp._exporting import samples
from tfmp._support import checks

MOST = 1024  # samples whose outputs are compared
NO_GPU = "times are of this CPU, which runs FP8 as bfloat16: a GPU's are others"
NO_LABELS = "no metrics: give `data` as (x, y)"
NOT_COMPILED = "no metrics: the first model is not compiled"


def compare(
    models: keras.Model | Mapping[str, keras.Model],
    data: Any = None,
    *,
    policies: Sequence[Any] | None = None,
    batch_sizes: Sequence[int] = (1, 32),
    runs: int = 30,
) -> Comparison:
    """Compares models in inference: accuracy, time, memory, share in FP8.

    The first is what the others are held against.  Calls are compiled as
    `predict` compiles them, and timed in turns.  What is measured is what
    this machine does: a CPU is no GPU, and the result says which it was.

    Args:
        models: a built Keras model, which is compared with copies of it; or a
            dictionary of models by name, compared as they are.  A SavedModel
            takes part as `keras.layers.TFSMLayer` in a model.
        data: `(x, y)` as `model.evaluate` takes them, `x` alone, or a
            `tf.data.Dataset` of batches of either.  None is random numbers,
            without metrics.
        policies: of the copies, beside one in float32: policies, their names
            or `PrecisionMap`s, as `tfmp.convert(copy, policy, filter="all")`
            takes them.  None compares the model as it is with float32.
        batch_sizes: to time; of the first samples of `data`, again from the
            start where these are too few.
        runs: how often each is timed.

    Returns:
        A `Comparison`, which prints as a table; it has `to_dict` and `plot`.
        The models are as they were.

    Raises:
        TypeError, ValueError: if an argument is not allowed, or Keras cannot
            copy the model, as one whose class is not registered.

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input([64]), keras.layers.Dense(16)])
    >>> model.compile(loss="mse", metrics=["mae"])
    >>> data = np.ones([8, 64]), np.zeros([8, 16])
    >>> found = compare(model, data, policies=["mixed_float8"], runs=3)
    >>> [(row.name, row.float8_share) for row in found.models]
    [('float32', 0.0), ('mixed_float8', 1.0)]
    >>> sorted(found["mixed_float8"].metrics), list(found.models[0].latency)
    (['loss', 'mae'], [1, 32])
    """
    checks.integer("runs", runs, 1)
    sizes = checks.sequence(
        "batch_sizes", batch_sizes, int, "a list of positive integers"
    )
    for size in sizes:
        checks.integer("batch_sizes", size, 1)
    if not sizes:
        raise ValueError("`batch_sizes` must not be empty. Received: ()")
    named = variants.named(models, policies)
    first = next(iter(named))
    x, y = _arrays(_random(named[first]) if data is None else data)
    calls = {name: measuring.compiled(each) for name, each in named.items()}
    batches = {size: measuring.first(x, size) for size in sorted(set(sizes))}
    timed = measuring.latencies(calls, batches, runs)
    some = measuring.first(x, min(MOST, _count(x)))
    expected = _outputs(calls, some)
    largest = batches[max(batches)]
    rows = []
    for name, model in named.items():
        rows.append(
            ComparedModel(
                name,
                _metrics(model, x, y),
                measuring.sqnr(expected[first], expected[name]),
                timed[name],
                measuring.weight_bytes(model),
                measuring.peak_bytes(calls[name], largest),
                _float8_share(model, largest),
            )
        )
    return Comparison(tuple(rows), machine.said(), _notes(named[first], y))


def _random(model: keras.Model) -> Any:
    """Returns what `tfmp.export` calls a model with."""
    signature = samples.signature(model)
    values = samples.values(model, signature, None)
    found = keras.tree.pack_sequence_as(signature, values)
    if len(found) > 1:
        raise ValueError(
            "`data` must be given for a model of several arguments. "
            f"Received: None, for {model.name!r} with {len(found)}"
        )
    return found[0]


def _arrays(data: Any) -> tuple[Any, Any]:
    """Returns inputs and labels as arrays; None if there are no labels.

    Raises:
        TypeError: if it is neither a tuple, arrays nor a dataset.
        ValueError: if it is empty.
    """
    if isinstance(data, tf.data.Dataset):
        batches = list(data.as_numpy_iterator())
        if not batches:
            raise ValueError("`data` must not be empty. Received: no batch")
        data = keras.tree.map_structure(
            lambda *parts: np.concatenate(parts), *batches
        )
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if isinstance(data, tuple) and len(data) != 2:
        raise ValueError(
            "`data` must be (x, y), or x alone. Received: a tuple of "
            f"{len(data)}"
        )
    x = keras.tree.map_structure(np.asarray, x)
    arrays = keras.tree.flatten(x)
    if not arrays or not all(a.ndim and len(a) for a in arrays):
        raise ValueError(
            "`data` must hold samples: (x, y), x alone, or a dataset of "
            f"batches. Received: {data!r}"
        )
    return x, y


def _count(x: Any) -> int:
    return min(len(each) for each in keras.tree.flatten(x))


def _outputs(calls: Mapping[str, Any], x: Any) -> dict[str, list[Any]]:
    return {name: keras.tree.flatten(call(x)) for name, call in calls.items()}


def _metrics(model: keras.Model, x: Any, y: Any) -> dict[str, float]:
    if y is None or not model.compiled:
        return {}
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    return {n: float(np.mean(value)) for n, value in sorted(found.items())}


def _float8_share(model: keras.Model, batch: Any) -> float:
    """Returns the share of the FLOPs of a call, as `tfmp.inspect` counts."""

    def call(x: Any) -> Any:
        return model(x, training=False)

    share = _inspection.inspect(call, batch).float8_share
    return 0.0 if math.isnan(share) else share


def _notes(first: keras.Model, y: Any) -> tuple[str, ...]:
    found = []
    if not tf.config.list_physical_devices("GPU"):
        found.append(NO_GPU)
    if y is None:
        found.append(NO_LABELS)
    elif not first.compiled:
        found.append(NOT_COMPILED)
    return tuple(found)
