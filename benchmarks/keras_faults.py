"""Runs what goes wrong in Keras' float8 and loss scaling, there and in tfmp.

    python benchmarks/keras_faults.py --out benchmarks/results/keras_faults.json

Each fault is one small program, the same for both, and the table says what it
saw: nothing in it is written by hand.  Faults that need two replicas run in a
process of their own, on two logical CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import float8_faults
import keras
import tensorflow as tf
import training_faults
from fault_libraries import Keras, Seen, Tfmp, first_words
from kill_and_resume import cpu

Program = Callable[[Keras], Seen]
PROGRAMS: dict[int, Program] = {
    1: float8_faults.eager,
    2: float8_faults.averaged_weights,
    3: float8_faults.shared_layer,
    4: float8_faults.time_distributed,
    5: float8_faults.frozen,
    6: float8_faults.global_policy,
    7: float8_faults.first_steps,
    8: float8_faults.infinite_input,
    9: float8_faults.float16,
    10: float8_faults.replicas,
    11: training_faults.bad_replica,
    12: training_faults.bounds,
    13: training_faults.skipped_step,
    14: training_faults.automatic_scaling,
    15: training_faults.policy_subclass,
    16: training_faults.weights_files,
    17: training_faults.exported,
    18: training_faults.converted,
    19: float8_faults.clipped,
}
NEED_REPLICAS = (10, 11)


def attempt(program: Program, library: Keras) -> dict[str, Any]:
    """Returns what a program saw, or the error that it ended with."""
    keras.utils.set_random_seed(0)
    try:
        seen = program(library)
    except Exception as error:
        seen = Seen(False, first_words(error))
    return {"ok": bool(seen.ok), "seen": seen.text}


def measure(numbers: Sequence[int]) -> dict[str, Any]:
    """Runs programs with both libraries, in this process."""
    rows = {}
    for number in numbers:
        program = PROGRAMS[number]
        tried = str(program.__doc__).rstrip(".")
        rows[str(number)] = {"tried": tried} | {
            library.name: attempt(program, library)
            for library in (Keras(), Tfmp())
        }
        print(f"{number:2}: {tried}", file=sys.stderr, flush=True)
    return rows


def measure_on_replicas(numbers: Sequence[int]) -> dict[str, Any]:
    """Runs programs in a process that has two logical CPUs."""
    if not numbers:
        return {}
    only = ",".join(map(str, numbers))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.json")
        command = [sys.executable, __file__, "--replicas", "--only", only]
        subprocess.run(
            [*command, "--out", path], check=True, stdout=subprocess.DEVNULL
        )
        return json.loads(pathlib.Path(path).read_text())["faults"]


def two_cpus() -> None:
    """Makes two logical CPUs of the one; before TensorFlow uses it."""
    device = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(device, parts)


def table(rows: dict[str, Any]) -> str:
    """Returns the rows as Markdown."""
    lines = [
        f"| # | what is tried | Keras {keras.__version__} | tfmp |",
        "|---|---|---|---|",
    ]
    for number, row in rows.items():
        cells = [
            ("ok: " if cell["ok"] else "**fails**: ") + cell["seen"]
            for cell in (row[Keras.name], row[Tfmp.name])
        ]
        line = " | ".join([number, row["tried"], *cells])
        lines.append(f"| {line.replace('<', '&lt;')} |")
    return "\n".join(lines)


def numbers_of(text: str) -> list[int]:
    """Reads `3,7`.

    >>> numbers_of("3,7")
    [3, 7]
    """
    numbers = [int(part) for part in text.split(",")]
    if not set(numbers) <= set(PROGRAMS):
        raise argparse.ArgumentTypeError(f"must be of {min(PROGRAMS)} to 19")
    return numbers


def main() -> None:
    """Prints the table, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=numbers_of, default=list(PROGRAMS))
    parser.add_argument("--out", help="also write the results here, as JSON")
    parser.add_argument(
        "--replicas", action="store_true", help="this process has two CPUs"
    )
    given = sys.argv[1:]
    args = parser.parse_args(given)
    warnings.simplefilter("ignore")
    begun = time.time()
    if args.replicas:
        two_cpus()
        rows = measure(args.only)
    else:
        rows = measure([n for n in args.only if n not in NEED_REPLICAS])
        rows |= measure_on_replicas(
            [n for n in args.only if n in NEED_REPLICAS]
        )
    rows = {str(n): rows[str(n)] for n in args.only}
    print(table(rows))
    if args.out:
        found = {
            "faults": rows,
            "seconds": round(time.time() - begun),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "machine": f"{cpu()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["python benchmarks/keras_faults.py", *given]),
        }
        pathlib.Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
