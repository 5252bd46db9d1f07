"""Whether the memory of a process grows as it trains on and on.

    python benchmarks/long_runs.py --out benchmarks/results/long_runs.json

Four programs, each with and without XLA, by tfmp and by plain Keras, each in
a process of its own:

    changes       one model, 200 changes of precision, a step after each
    alternations  the same, by a `PrecisionScheduler` in one `fit`, which
                  keeps the compiled steps (`programs=4`)
    models        100 models made, trained for a step, deleted, session cleared
    lengths       5,000 steps, each of another batch size and length

The model is four dense layers.  What stands in for FP8 in Keras is bfloat16:
its layers change from float32 and back.  Sampled is what Linux says that the
process holds (`VmRSS`), after a collection of garbage; the growth is the
slope of a straight line through the second half, times what is done.  Under
XLA each shape of a batch is a program of its own, in Keras as here, so that
there are fewer shapes then, 32 for 1,024.

What `--out` has already is not run again.
"""

from __future__ import annotations

import gc
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import measuring
import numpy as np
import tensorflow as tf

import tfmp
from tfmp._support import tables

COUNTS = {"changes": 200, "alternations": 200, "models": 100, "lengths": 5000}
SAMPLES, WIDTH = 50, 64
LIBRARIES = ("tfmp", "keras")
# The largest batch, and the longest, without and with XLA.
SHAPES = {False: (16, 64), True: (4, 8)}


class Memory:
    """What a process holds, over time.

    Args:
        count: how many things will be done.
    """

    def __init__(self, count: int) -> None:
        self._every = max(1, count // SAMPLES)
        self.count, self.done = count, 0
        self.samples: list[tuple[int, float]] = []

    def look(self) -> None:
        """Counts one more, and takes a sample if it is time to."""
        self.done += 1
        if self.done % self._every == 0:
            gc.collect()
            self.samples.append((self.done, resident_mebibytes()))

    def growth(self) -> float:
        """Returns the MiB that one more takes, by the second half."""
        at, held = np.array(self.samples[len(self.samples) // 2 :]).T
        return float(np.polyfit(at, held, 1)[0])


def resident_mebibytes() -> float:
    """Returns what this process holds now, in MiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    [line] = [each for each in lines if each.startswith("VmRSS:")]
    return int(line.split()[1]) / 2**10


def make(library: str, jit_compile: bool) -> keras.Model:
    """Returns a compiled model of four dense layers, in FP8 or bfloat16."""
    policy = "mixed_bfloat16"
    layers = [keras.layers.Dense(WIDTH, "relu", dtype=policy) for _ in "123"]
    last = keras.layers.Dense(1, dtype=policy)
    model = keras.Sequential([keras.Input([None, WIDTH]), *layers, last])
    optimizer = keras.optimizers.Adam(1e-3)
    if library == "tfmp":
        tfmp.convert(model, filter="all")
        optimizer = tfmp.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def data(rows: int = 16, length: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Returns one batch."""
    x = np.ones([rows, length, WIDTH], "float32")
    return x, x[..., :1]


def changes(memory: Memory, library: str, jit_compile: bool) -> None:
    """Changes the precision of one model, there and back."""
    model = make(library, jit_compile)
    there = "float32" if library == "keras" else "mixed_float8"
    for number in range(memory.count):
        policy = there if number % 2 else "mixed_bfloat16"
        if library == "tfmp":
            tfmp.set_precision(model, policy)
        else:
            for layer in model.layers:
                layer.dtype_policy = policy
            model.make_train_function(force=True)
        model.fit(*data(), 16, verbose=0)
        memory.look()


def alternations(memory: Memory, library: str, jit_compile: bool) -> None:
    """Changes the precision of one model within a `fit`, there and back."""
    policies = "mixed_float8", "mixed_bfloat16"
    times = {time: policies[time % 2] for time in range(memory.count)}
    scheduler = tfmp.callbacks.PrecisionScheduler(times, programs=4)
    looks = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: memory.look()
    )
    model = make(library, jit_compile)
    options = {"epochs": memory.count, "verbose": 0}
    model.fit(*data(), 16, callbacks=[scheduler, looks], **options)


def models(memory: Memory, library: str, jit_compile: bool) -> None:
    """Makes models, one after the other."""
    for _ in range(memory.count):
        make(library, jit_compile).fit(*data(), 16, verbose=0)
        keras.backend.clear_session()
        memory.look()


def lengths(memory: Memory, library: str, jit_compile: bool) -> None:
    """Trains on batches of changing size and length."""
    random, largest = np.random.default_rng(0), SHAPES[jit_compile]

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(memory.count):
            yield data(*(int(random.integers(1, n + 1)) for n in largest))

    like = tf.TensorSpec([None, None, WIDTH]), tf.TensorSpec([None, None, 1])
    dataset = tf.data.Dataset.from_generator(batches, output_signature=like)
    looks = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: memory.look()
    )
    model = make(library, jit_compile)
    model.fit(dataset, verbose=0, shuffle=False, callbacks=[looks])


PROGRAMS: dict[str, Callable[[Memory, str, bool], None]] = {
    "changes": changes,
    "alternations": alternations,
    "models": models,
    "lengths": lengths,
}


def run(
    program: str, library: str, jit_compile: bool, count: int
) -> dict[str, Any]:
    """Runs a program in this process, and returns what it held."""
    tf.get_logger().setLevel("ERROR")  # Keras' programs are made anew
    memory, begun = Memory(count), time.perf_counter()
    PROGRAMS[program](memory, library, jit_compile)
    return {
        "program": program,
        "library": library,
        "xla": jit_compile,
        "count": count,
        "mebibytes": [[at, round(held)] for at, held in memory.samples],
        "growth_mebibytes_each": round(memory.growth(), 4),
        "seconds": round(time.perf_counter() - begun),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns what each program held as it went on."""
    parts = ("a quarter", "half", "three quarters", "the end")
    lines = [["program", "XLA", "by", *parts, "MiB for each more"]]
    for row in rows:
        held = [x for _, x in row["mebibytes"]]
        places = [len(held) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        what = f"{row['count']:,} {row['program']}"
        cells = [what, "yes" if row["xla"] else "no", row["library"]]
        cells += [f"{held[place]:,}" for place in places]
        lines.append([*cells, f"{row['growth_mebibytes_each']:.3f}"])
    return "\n".join(tables.lines(lines))


def main() -> None:
    """Runs every program, prints a table, and writes the results."""
    parser = measuring.parser(__doc__, 1)
    names = list(PROGRAMS)
    parser.add_argument("--programs", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of what is done; default 1"
    )
    args = parser.parse_args()
    rows = kept(args.out)
    for program in args.programs:
        count = max(8, int(COUNTS[program] * args.share))
        for jit_compile in (False, True):
            for library in LIBRARIES[: 1 if program == "alternations" else 2]:
                what = program, library, jit_compile, count
                if what not in map(described, rows):
                    rows.append(measuring.in_fresh_process(run, *what))
                    print(table(rows[-1:]).splitlines()[-1], flush=True)
                    measuring.write(args.out, {"runs": rows})
    print(table(rows))


def described(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what a row is of."""
    return row["program"], row["library"], row["xla"], row["count"]


def kept(path: str | None) -> list[dict[str, Any]]:
    """Returns the rows that a file has already."""
    if path is None or not pathlib.Path(path).exists():
        return []
    return json.loads(pathlib.Path(path).read_text())["runs"]


if __name__ == "__main__":
    main()
