"""Times `import tensorflow` and `import tfmp`, each in fresh processes.

    python benchmarks/import_time.py [--runs 7]

Both orders of a pair are taken in turn, so that a disk that warms up or a
neighbour that wakes up falls on both.  The bound to stay below: 0.3 s more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

PROGRAM = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def seconds(module: str) -> float:
    """Returns what importing a module takes in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return float(run.stdout)


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
    median = {module: statistics.median(all_) for module, all_ in times.items()}
    for module, value in median.items():
        spread = f"{min(times[module]):.2f} to {max(times[module]):.2f}"
        print(f"import {module:<11}{value:6.2f} s  ({spread}, {runs} runs)")
    print(f"difference        {median['tfmp'] - median['tensorflow']:6.2f} s")


if __name__ == "__main__":
    main()
