"""Two processes that save to one path, and two that load from it meanwhile.

    python benchmarks/file_races.py --rounds 1000 --out FILE

Each writer saves `rounds` times, each time with another number in every weight
and in the notes; each reader loads until both have ended.  Counted are saves
and loads that raise, loads whose notes are not of the weights, and whether the
last file is whole.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np

from tfmp import checkpoints

PROCESSES = ("write", "write", "read", "read")


def make() -> keras.Model:
    """A compiled model of 16,000 weights."""
    model = keras.Sequential([keras.Input([128]), keras.layers.Dense(128)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def wait_for(path: pathlib.Path) -> None:
    """Waits until a file is there."""
    while not path.exists():
        time.sleep(0.01)


def write(path: pathlib.Path, first: int, rounds: int) -> dict[str, int]:
    """Saves again and again; returns what came of it."""
    model, failed = make(), 0
    for number in range(first, first + 2 * rounds, 2):
        for variable in model.weights:
            variable.assign(np.full(variable.shape, number % 997))
        try:
            checkpoints.save_weights(model, path, {"number": number % 997})
        except Exception:
            failed += 1
    return {"saves": rounds, "saves that failed": failed}


def read(path: pathlib.Path, ends: list[pathlib.Path]) -> dict[str, int]:
    """Loads until the writers have ended; returns what came of it."""
    model, counts = make(), dict.fromkeys(("loads", "failed", "mixed"), 0)
    while not all(end.exists() for end in ends):
        counts["loads"] += 1
        try:
            number = checkpoints.load_weights(model, path)["number"]
        except Exception:
            counts["failed"] += 1
            continue
        same = all((v.numpy() == number).all() for v in model.weights)
        counts["mixed"] += not same
    return {
        "loads": counts["loads"],
        "loads that failed": counts["failed"],
        "loads of another file's notes": counts["mixed"],
    }


def one(job: str, number: int, folder: pathlib.Path, rounds: int) -> None:
    """One process: waits for the others, and prints what came of its work."""
    path = folder / "a.weights.h5"
    ends = [folder / f"end_{i}" for i in range(PROCESSES.count("write"))]
    if job == "write" and number == 0:
        checkpoints.save_weights(make(), path, {"number": 0})
    (folder / f"ready_{number}").touch()
    for each in range(len(PROCESSES)):
        wait_for(folder / f"ready_{each}")
    if job == "write":
        found = write(path, number, rounds)
        ends[number].touch()
    else:
        found = read(path, ends)
    sys.stdout.write(json.dumps(found) + "\n")


def race(rounds: int) -> dict[str, Any]:
    """Runs all processes at once; returns their counts, added up."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--rounds", str(rounds)]
        running = [
            subprocess.Popen(
                [*command, "--process", job, str(number), name],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, job in enumerate(PROCESSES)
        ]
        total: dict[str, Any] = {}
        for each in running:
            said, _ = each.communicate()
            for key, count in json.loads(said.splitlines()[-1]).items():
                total[key] = total.get(key, 0) + count
        folder = pathlib.Path(name)
        try:
            checkpoints.load_weights(make(), folder / "a.weights.h5")
            total["the last file"] = "whole"
        except Exception as error:
            total["the last file"] = f"{type(error).__name__}"
        left = [p.name for p in folder.iterdir() if p.name.startswith(".")]
        total["files left over"] = len(left)
        return total


def main() -> None:
    """Runs the race, or one process of it."""
    parser = measuring.parser(__doc__, 1000)
    parser.add_argument("--process", nargs=3, help="of the benchmark itself")
    args = parser.parse_args()
    if args.process:
        job, number, folder = args.process
        one(job, int(number), pathlib.Path(folder), args.rounds)
        return
    found = race(args.rounds)
    for key, count in found.items():
        print(f"{key:<32}{count}")
    measuring.write(args.out, found)


if __name__ == "__main__":
    main()
