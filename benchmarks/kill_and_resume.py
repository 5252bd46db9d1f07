"""Kills a training at random moments, and compares what it ends with.

    python benchmarks/kill_and_resume.py --tries 8 --out kill_and_resume.json

A small FP8 training (dense, batch normalization, dropout, Adam with a learning
rate schedule, dynamic loss scale, an overflow in every epoch) runs once
without interruption.  Then, in each try, it is started, ended by SIGKILL at a
random moment, most of them spread evenly over the time that training and
saving take and some before the first step, and started again, until it ends.
Every variable, and `History`, must then be that of the run that was not
killed, bit for bit.  Keras' ways resume with the `History` of the epochs
since: of theirs, the end is compared.

Processes are forked after the imports, before TensorFlow starts.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import json
import os
import pathlib
import platform
import random
import select
import signal
import tempfile
import time
import traceback
from typing import Any

import keras
import numpy as np
import saving_ways
import tensorflow as tf

KILL_AGAIN, KILL_EARLY, PATIENCE, EARLY = 0.7, 0.1, 120.0, 2.0
KILLED, ENDED, FAILED = "killed", "ended", "failed"


def start(way: str, folder: str) -> tuple[int, int]:
    """Forks a training; returns its process and a pipe, a byte a step."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    code = 1
    try:
        log = os.open(folder + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        saving_ways.train(way, folder, lambda: os.write(writer, b"s") and None)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def live(
    way: str, folder: str, moment: tuple[int, float] | None = None
) -> tuple[str, list[float]]:
    """Runs one process, and kills it if `moment` is given.

    Args:
        way: a key of `saving_ways.WAYS`.
        folder: where it saves.
        moment: how many steps it may take, and how many seconds after that.

    Returns:
        How it ended, and the time of each of its steps in seconds.
    """
    process, reader = start(way, folder)
    times: list[float] = []
    while moment is None or len(times) < moment[0]:
        ready, _, _ = select.select([reader], [], [], PATIENCE)
        if not ready or not os.read(reader, 1):
            break
        times.append(time.perf_counter())
    if moment is not None:
        time.sleep(moment[1])
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(reader)
    if os.WIFSIGNALED(status):
        return KILLED, times
    return FAILED if status else ENDED, times


def draw_moment(dice: random.Random, times: list[float]) -> tuple[int, float]:
    """Draws a moment, evenly over the time that a whole training took."""
    if dice.random() < KILL_EARLY:
        return 0, dice.uniform(0.1, EARLY)
    at = dice.uniform(times[0], times[-1])
    steps = bisect.bisect_right(times, at)
    return steps, at - times[steps - 1]


def result(folder: str) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Returns the variables and the `History` that a training ended with."""
    with np.load(folder + ".npz", allow_pickle=False) as file:
        values = {name: file[name] for name in file.files}
    history = json.loads(pathlib.Path(folder + ".json").read_text())
    return values, history


def differences(way: str, folder: str, reference: str) -> list[str]:
    """Returns the names of variables and of `History` that differ."""
    (ours, history), (theirs, whole) = result(folder), result(reference)
    found = [] if len(ours) == len(theirs) else ["number of variables"]
    # A model that was loaded may have other names.
    for (name, a), b in zip(theirs.items(), ours.values(), strict=False):
        if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
            found.append(name)
    for name, values in whole.items():
        given = history.get(name, [])
        if not way.startswith("tfmp") and given:
            values = values[-len(given) :]
        if repr(given) != repr(values) and (given or way.startswith("tfmp")):
            found.append(f"History {name}")
    return sorted(found)


def try_once(
    way: str,
    folder: str,
    reference: str,
    times: list[float],
    dice: random.Random,
) -> tuple[int, list[str] | str]:
    """Kills and restarts until the training ends.

    Returns:
        How often it was killed, and what differs; or the error, if a process
        fails by itself.
    """
    kills, again = 0, True
    while True:
        moment = draw_moment(dice, times) if again else None
        how, _ = live(way, folder, moment)
        if how == FAILED:
            log = pathlib.Path(folder + ".log").read_text(errors="replace")
            return kills, log.splitlines()[-1][:200]
        if how == ENDED:
            return kills, differences(way, folder, reference)
        kills += 1
        again = dice.random() < KILL_AGAIN


def measure(way: str, tries: int, seed: int, folder: str) -> dict[str, Any]:
    """Tries one way of saving several times."""
    dice = random.Random(f"{seed} {way}")
    root = pathlib.Path(folder, str(list(saving_ways.WAYS).index(way)))
    root.mkdir()
    reference = str(root / "reference")
    how, times = live(way, reference)
    if how != ENDED:
        log = pathlib.Path(reference + ".log").read_text()
        raise RuntimeError(f"{way!r} fails without being killed:\n{log}")
    outcomes: collections.Counter[str] = collections.Counter()
    differ: collections.Counter[str] = collections.Counter()
    errors: collections.Counter[str] = collections.Counter()
    kills = 0
    for number in range(tries):
        place = str(root / f"try{number}")
        killed, found = try_once(way, place, reference, times, dice)
        kills += killed
        if isinstance(found, str):
            outcomes["cannot resume"] += 1
            errors[found] += 1
            continue
        outcomes["different" if found else "identical"] += 1
        differ.update(found)
    return {
        "tries": tries,
        "kills": kills,
        **{k: outcomes[k] for k in ("identical", "different", "cannot resume")},
        "seconds_of_training": round(times[-1] - times[0], 3),
        "what_differs": dict(sorted(differ.items())),
        "errors": dict(errors),
    }


def cpu() -> str:
    """Returns the name of the processor."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(":")[2] for x in lines if x.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def main() -> None:
    """Prints a table, and writes JSON if asked to."""
    ways = list(saving_ways.WAYS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=5, help="of each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", action="append", choices=ways)
    parser.add_argument("--out", help="also write the results here, as JSON")
    args = parser.parse_args()
    begun, rows = time.time(), {}
    print(f"{'way':44} tries kills identical different cannot resume")
    with tempfile.TemporaryDirectory() as folder:
        for way in args.way or ways:
            rows[way] = row = measure(way, args.tries, args.seed, folder)
            print(
                f"{way:44} {row['tries']:5} {row['kills']:5}"
                f" {row['identical']:9} {row['different']:9}"
                f" {row['cannot resume']:13}",
                flush=True,
            )
    if args.out:
        steps = saving_ways.EPOCHS * saving_ways.STEPS
        command = f"--tries {args.tries} --seed {args.seed}"
        command += "".join(f' --way "{way}"' for way in args.way or ())
        found = {
            "program": f"{steps} steps in {saving_ways.EPOCHS} epochs",
            "ways": rows,
            "seconds": round(time.time() - begun),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "machine": f"{cpu()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "command": f"python benchmarks/kill_and_resume.py {command}",
        }
        pathlib.Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
