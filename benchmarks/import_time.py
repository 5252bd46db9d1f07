"""Times `import tensorflow` and `import tfmp`, each in fresh processes.

    python benchmarks/import_time.py [--runs 7]

The two take turns in both orders, so that a disk that warms up or a neighbour
that wakes up falls on both.  Their difference is to stay below 0.3 s; as it
still holds what either import varies by, tfmp's own part is timed alone too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

PROGRAM = """
import time
{before}
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def seconds(module: str, before: str = "") -> float:
    """Returns what importing a module takes in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module, before=before)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return float(run.stdout)


def show(what: str, times: list[float]) -> float:
    """Prints the median, lowest and highest time; returns the median."""
    median = statistics.median(times)
    print(f"{what:<30}{median:6.2f} s  ({min(times):.2f} to {max(times):.2f})")
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    modules = ["tensorflow", "tfmp"]
    times: dict[str, list[float]] = {module: [] for module in modules}
    for module in modules:
        seconds(module)
    for _ in range(runs):
        modules.reverse()
        for module in modules:
            times[module].append(seconds(module))
    alone = [seconds("tfmp", "import tensorflow") for _ in range(runs)]
    first = show("import tensorflow", times["tensorflow"])
    second = show("import tfmp", times["tfmp"])
    print(f"{'difference':<30}{second - first:6.2f} s")
    show("import tfmp after tensorflow", alone)


if __name__ == "__main__":
    main()
