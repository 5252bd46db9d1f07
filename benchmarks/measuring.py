"""What the benchmarks share: times in turns, their ratios, and what ran them.

Machines are noisy.  So all variants of a program run in one process, round by
round, each round in another order, and what slows the machine slows all of
them.  A time is the median of the rounds; a ratio is the median of the rounds'
ratios, never the ratio of two medians; both are kept with their quartiles.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import pathlib
import platform
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfmp
from tfmp._support import tables

Times = Mapping[str, np.ndarray]


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm_up: int = 2,
    block_seconds: float = 0.0,
) -> dict[str, np.ndarray]:
    """Returns the milliseconds of a call in each round, by variant.

    Args:
        calls: what to time, by variant.
        rounds: in each, every variant is timed once.
        warm_up: rounds before, which do not count.
        block_seconds: a call that is shorter is repeated for about so long,
            and its time is the mean.
    """
    repeats = dict.fromkeys(calls, 1)
    times: dict[str, list[float]] = {variant: [] for variant in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    for index in range(-warm_up, rounds):
        shuffle(order)
        for variant in order:
            seconds = _seconds(calls[variant], repeats[variant])
            if index >= 0:
                times[variant].append(seconds * 1e3)
            else:
                repeats[variant] = max(1, math.ceil(block_seconds / seconds))
    return {variant: np.array(found) for variant, found in times.items()}


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    tf.test.experimental.sync_devices()
    return (time.perf_counter() - start) / repeats


def spread(values: Any) -> dict[str, float]:
    """Returns the median and the quartiles, to four digits.

    >>> spread([1.0, 2.0, 3.0])["median"]
    2.0
    """
    lower, median, upper = np.percentile(values, [25, 50, 75])
    found = {
        "median": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def summary(times: Times, references: Sequence[str]) -> dict[str, Any]:
    """Returns what a benchmark keeps of the rounds, by variant.

    Args:
        times: milliseconds of each round.
        references: the variants that all others are held against.
    """
    return {
        variant: {
            "milliseconds": spread(own),
            "ratio_over": {
                other: spread(own / times[other])
                for other in references
                if other in times and other != variant
            },
        }
        for variant, own in times.items()
    }


def table(
    rows: Mapping[str, Mapping[str, Any]],
    variants: Sequence[str],
    subjects: Sequence[str],
    references: Sequence[str],
) -> str:
    """Returns the milliseconds of each row's variants, and ratios.

    Args:
        rows: a summary each.
        variants: the columns.
        subjects: a row's ratios are those of the first of these that it has.
        references: what the ratios are over.
    """
    ratios = [f"/ {name}" for name in references]
    lines = [["milliseconds", *variants, "ratio of", *ratios]]
    for name, row in rows.items():
        found = [row.get(v, {}).get("milliseconds") for v in variants]
        subject = next((s for s in subjects if _ran(row.get(s))), "")
        over = row.get(subject, {}).get("ratio_over", {})
        cells = [f"{each['median']:.4g}" if each else "-" for each in found]
        parts = [over.get(reference) for reference in references]
        last = [f"{each['median']:.2f}" if each else "-" for each in parts]
        lines.append([name, *cells, subject or "-", *last])
    return "\n".join(tables.lines(lines))


def _ran(variant: Mapping[str, Any] | None) -> bool:
    return variant is not None and "milliseconds" in variant


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Returns what a module's function returns in a process of its own.

    Raises:
        Exception: what the function raises, or `BrokenProcessPool` if the
            process was killed, as for memory.
    """
    context = multiprocessing.get_context("spawn")
    make = concurrent.futures.ProcessPoolExecutor
    with make(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def peak_mebibytes() -> float:
    """Returns the most memory that this process has held, in MiB.

    `ru_maxrss` of a process counts what its parent held when it began, so
    that Linux is asked for the peak of this program alone.
    """
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def first_words(error: BaseException) -> str:
    """Returns the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def parser(doc: str, rounds: int) -> argparse.ArgumentParser:
    """Returns the options of every benchmark.

    Args:
        doc: the benchmark's docstring; its first line is shown.
        rounds: the default.
    """
    found = argparse.ArgumentParser(description=doc.splitlines()[0])
    found.add_argument(
        "--rounds", type=int, default=rounds, help=f"default {rounds}"
    )
    found.add_argument("--out", help="also write the results here, as JSON")
    return found


def facts() -> dict[str, Any]:
    """Returns what ran a benchmark: machine, versions, date and command."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfmp": tfmp.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *map(_from_here, sys.argv)]),
    }


def _from_here(argument: str) -> str:
    """Returns a path without that of the folder it is run in."""
    here = f"{os.getcwd()}/"
    return argument.removeprefix(here)


def cpu_model() -> str:
    """Returns the name of the processor, or of its architecture."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.machine()


def write(path: str | None, results: Mapping[str, Any]) -> None:
    """Writes results and facts as JSON, if there is a path."""
    if path:
        text = json.dumps({**facts(), **results}, indent=1)
        pathlib.Path(path).write_text(text + "\n")
