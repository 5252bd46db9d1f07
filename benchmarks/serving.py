"""What a trained model costs to serve: bytes and latency, before and after.

    python benchmarks/serving.py [--width 1024] [--layers 3] [--rounds 7]

trains a model of dense layers in float32 and in FP8 for two steps, freezes a
copy of the second, and writes each as a SavedModel, a `.keras` file and a
weights file.  A latency is the median of the rounds.  In brackets are the
median shares of float32's in the same round, on the clock and of all CPUs:
machines differ, and so do neighbours.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tfmp
from tfmp._support import tables

BATCHES = (1, 128)
SECONDS = 0.2
Call = Callable[[np.ndarray], object]


def model_of(policy: str, width: int, layers: int) -> keras.Model:
    """Returns a model, trained for two steps."""
    keras.utils.set_random_seed(0)
    kind = tfmp.layers.Dense if policy == "mixed_float8" else keras.layers.Dense
    body = [kind(width, "relu", dtype=policy) for _ in range(layers)]
    model = keras.Sequential(
        [keras.Input([width]), *body, kind(10, dtype=policy)]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=[256, width]).astype("float32")
    model.fit(x, x[:, :10], batch_size=128, verbose=0)
    return model


def size_of(path: pathlib.Path) -> int:
    """Returns the bytes of a file, or of all in a folder."""
    if path.is_file():
        return path.stat().st_size
    walked = os.walk(path)
    return sum(size_of(pathlib.Path(p, f)) for p, _, fs in walked for f in fs)


def sizes(model: keras.Model, folder: pathlib.Path) -> dict[str, int]:
    """Writes a model in all three ways, and returns the bytes."""
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    tfmp.export(model, folder / "served")
    names = ("served", "model.keras", "model.weights.h5")
    return {name: size_of(folder / name) for name in names}


def ways(model: keras.Model, folder: pathlib.Path) -> dict[str, Call]:
    """Returns three ways to ask a model."""
    function = tf.function(lambda x: model(x, training=False))
    loaded = tf.saved_model.load(str(folder / "served"))
    return {
        "predict": lambda x: model.predict(x, verbose=0, batch_size=len(x)),
        "tf.function": lambda x: function(x).numpy(),
        "SavedModel": lambda x: loaded.serve(x).numpy(),
    }


def milliseconds(call: Call, x: np.ndarray) -> tuple[float, float]:
    """Returns the mean of calls for a while: on the clock, of all CPUs."""
    count, start, used = 0, time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - start) < SECONDS:
        call(x)
        count += 1
    return passed / count * 1e3, (time.process_time() - used) / count * 1e3


def latencies(
    kinds: dict[str, dict[str, Call]], x: np.ndarray, rounds: int
) -> list[tuple[str, ...]]:
    """Returns a table: each kind and way, beside float32's in its round."""
    ways = list(next(iter(kinds.values())))
    rows = {kind: [kind] for kind in kinds}
    for way in ways:
        times: dict[str, list[tuple[float, float]]] = {k: [] for k in kinds}
        for number in range(rounds + 1):
            for kind, each in kinds.items():
                found = milliseconds(each[way], x)
                if number:  # the first compiles
                    times[kind].append(found)
        for kind, own in times.items():
            median = np.median(own, axis=0)
            shares = np.array(own) / np.array(times["float32"])
            clock, used = np.median(shares, axis=0)
            rows[kind].append(f"{median[0]:.2f} ms ({clock:.2f}, {used:.2f})")
    return [(f"batch {len(x)}", *ways), *map(tuple, rows.values())]


def report(folder: pathlib.Path, width: int, layers: int, rounds: int) -> str:
    """Measures everything, and returns the tables."""
    kinds, rows = {}, [("", "SavedModel", ".keras", ".weights.h5")]
    for kind in ("float32", "FP8", "frozen"):
        policy = "float32" if kind == "float32" else "mixed_float8"
        model, own = model_of(policy, width, layers), folder / kind
        own.mkdir()
        if kind == "frozen":
            tfmp.freeze(model)
        found = sizes(model, own).values()
        rows.append((kind, *(f"{size / 1e6:.2f} MB" for size in found)))
        kinds[kind] = ways(model, own)
    lines = tables.lines(rows)
    for batch in BATCHES:
        x = np.ones([batch, width], "float32")
        lines += ["", *tables.lines(latencies(kinds, x, rounds))]
    return "\n".join(lines)


def main() -> None:
    """Reads the arguments and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = report(pathlib.Path(folder), **vars(given))
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
