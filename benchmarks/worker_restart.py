"""Kills a worker of two, starts both again, and compares the end.

    python benchmarks/worker_restart.py --rounds 3 --out worker_restart.json

Two processes train one FP8 model under `MultiWorkerMirroredStrategy`, by a
loop of their own (`python -m examples.workers` does it by `fit`): dense, batch
normalization, dropout, Adam, a dynamic loss scale, an overflow in every epoch.
All save every 5 steps with `tfmp.checkpoints`, and load as they begin.
They run once without interruption.  Then, in each round and for each worker,
that one is ended by SIGKILL within an epoch; the other is waited for, and both
are started again, as a cluster manager does.  All variables must then be those
of the first run, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
import tensorflow as tf

import tfmp
from tfmp import checkpoints

WORKERS, EPOCHS, STEPS, BATCH, EVERY = 2, 4, 12, 16, 5
PATIENCE = 180.0  # seconds


def make(strategy: Any) -> keras.Model:
    """Returns a compiled model, and builds its optimizer."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input([16]),
                tfmp.layers.Dense(16, "relu", dtype="mixed_float8"),
                tfmp.layers.BatchNormalization(dtype="mixed_float8"),
                keras.layers.Dropout(0.2, seed=3),
                keras.layers.Dense(4, dtype="float32"),
            ]
        )
        optimizer = tfmp.optimizers.LossScaleOptimizer("adam", growth_steps=5)
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
    return model


def data(epoch: int) -> tf.data.Dataset:
    """Returns the batches of an epoch; one of them makes a step overflow."""
    x = np.random.default_rng(0).normal(size=[STEPS * BATCH, 16])
    x = x.astype("float32")
    x[BATCH * 7, 0] = np.inf
    rows = tf.data.Dataset.from_tensor_slices((x, np.tanh(x[:, :4])))
    return rows.shuffle(len(x), seed=epoch).batch(BATCH)


def train(folder: pathlib.Path, index: int) -> None:
    """Trains as one of the workers, from the newest file on."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    model = make(strategy)
    optimizer, variables = model.optimizer, model.trainable_variables

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            error = tf.square(model(x, training=True) - y)
            loss = optimizer.scale_loss(tf.reduce_sum(error) / BATCH)
        optimizer.apply(tape.gradient(loss, variables), variables)

    run = tf.function(lambda batch: strategy.run(step, args=batch))
    path, done = folder / "state.weights.h5", 0
    if path.exists():
        done = checkpoints.load_weights(model, path)["step"]
    say("ready", done)
    for epoch in range(done // STEPS, EPOCHS):
        rest = data(epoch).skip(done % STEPS)
        for batch in strategy.experimental_distribute_dataset(rest):
            run(batch)
            done += 1
            say("step", done)
            if done % EVERY == 0:  # on all workers: it asks all of them
                checkpoints.save_weights(model, path, {"step": done})
    say("end", digest(model), int(optimizer.skipped_steps.numpy()))


def digest(model: keras.Model) -> str:
    """Returns a hash of all that the training goes on from."""
    values = [np.asarray(v.numpy()) for v in checkpoints.variables(model)]
    return hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()


def say(*words: Any) -> None:
    """Tells the process that started this one."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class Worker:
    """A process that trains.

    Args:
        folder: where the first worker saves.
        ports: of all workers.
        index: its own.
    """

    def __init__(
        self, folder: pathlib.Path, ports: list[int], index: int
    ) -> None:
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", str(folder), str(index)],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "TF_CONFIG": config},
        )

    def hear(self, word: str, number: int = 0) -> list[Any]:
        """Waits until it says a word, of a step at least that late."""
        for line in self.process.stdout or ():
            said = json.loads(line) if line.startswith("[") else [""]
            if said[0] == word and (word == "end" or said[1] >= number):
                return said
        raise RuntimeError(f"a worker ended before {word!r}:\n{self.wrong()}")

    def wrong(self) -> str:
        """Returns the last error among what it wrote as it failed."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines() or [""]
        named = [line for line in lines if "Error: " in line]
        return (named or lines)[-1][:300]

    def end(self) -> None:
        """Ends it if it has not ended."""
        self.process.kill()
        self.process.wait()


def start(folder: pathlib.Path) -> list[Worker]:
    """Starts all workers."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(WORKERS)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return [Worker(folder, ports, index) for index in range(WORKERS)]


def finish(workers: list[Worker]) -> list[Any]:
    """Waits for the end of all; returns what they say, which is the same."""
    said = [each.hear("end") for each in workers]
    for each in workers:
        each.process.wait(PATIENCE)
    if any(each != said[0] for each in said):
        raise RuntimeError(f"workers end with different values: {said}")
    return said[0][1:]


def killed(
    folder: pathlib.Path, victim: int, dice: random.Random
) -> dict[str, Any]:
    """Kills a worker, starts both again, and returns what that took."""
    workers, at = start(folder), dice.randrange(STEPS + 2, EPOCHS * STEPS - 4)
    try:
        workers[victim].hear("step", at)
        time.sleep(dice.uniform(0, 0.02))
        os.kill(workers[victim].process.pid, signal.SIGKILL)
        dead = time.perf_counter()
        other = workers[1 - victim].process
        noticed: float | None = None
        try:
            other.wait(PATIENCE)
            noticed = round(time.perf_counter() - dead, 1)
        except subprocess.TimeoutExpired:
            other.kill()
        how = workers[1 - victim].wrong()
    finally:
        for each in workers:
            each.end()
    again, workers = time.perf_counter(), start(folder)
    try:
        _, from_step = workers[0].hear("ready")
        ready = time.perf_counter()
        workers[0].hear("step", from_step + 1)
        first = time.perf_counter()
        workers[0].hear("step", at)
        caught_up = time.perf_counter()
        end = finish(workers)
    finally:
        for each in workers:
            each.end()
    return {
        "killed": victim,
        "at_step": at,
        "other_ended_after_seconds": noticed,
        "other_said": how,
        "goes_on_from_step": from_step,
        "ready_after_seconds": round(ready - again, 1),
        "first_step_after_seconds": round(first - again, 1),
        "caught_up_after_seconds": round(caught_up - again, 1),
        "end": end,
    }


def main() -> None:
    """Runs all rounds, or one worker."""
    parser = measuring.parser(__doc__, 2)
    parser.add_argument("--worker", nargs=2, help="of the benchmark itself")
    args = parser.parse_args()
    if args.worker:
        train(pathlib.Path(args.worker[0]), int(args.worker[1]))
        return
    dice, found = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        (root / "whole").mkdir()
        whole = finish(start(root / "whole"))
        for number in range(args.rounds * WORKERS):
            folder = root / str(number)
            folder.mkdir()
            row = killed(folder, number % WORKERS, dice)
            row["identical"] = row.pop("end") == whole
            found.append(row)
            print(json.dumps(row), flush=True)
            facts = {"steps": EPOCHS * STEPS, "skipped": whole[1]}
            measuring.write(args.out, {**facts, "kills": found})


if __name__ == "__main__":
    main()
