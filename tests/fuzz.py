"""Bad use of every public function and class of tfmp, by hypothesis.

    python tests/fuzz.py --tries 100000 --seed 0 --out fuzz.json

Each try calls one entry of `fuzz_table.TABLE` with good arguments, of which
one or two are replaced by a value of `fuzz_values`.  It must

    be accepted     what was drawn happened to be allowed, or
    be rejected     by a ValueError or TypeError, of no more special class,
                    that names an argument in backticks and says what it
                    received; within a call of Keras its own message will do

Anything else is a finding: another exception, a hang, a warning.  A crash ends
the process.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
import tensorflow as tf
from fuzz_tries import OUTCOMES, Entry, Tally, run

import tfmp


@contextlib.contextmanager
def in_folder() -> Iterator[None]:
    """Has relative paths be below a folder of their own."""
    before = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def run_table(
    table: Mapping[str, Entry], tries: int, seed: int
) -> dict[str, Tally]:
    """Spreads a number of tries over a table, by weight; prints as it goes."""
    total = sum(entry.weight for entry in table.values())
    sys.stdout.write(f"{'':<44}{'tries':>7}" + _cells(OUTCOMES) + "  seconds\n")
    tallies = {}
    for name, entry in table.items():
        start = time.perf_counter()
        share = round(tries * entry.weight / total)
        tally = tallies[name] = run(entry, share, seed)
        counts = [tally.counts[outcome] for outcome in OUTCOMES]
        seconds = time.perf_counter() - start
        line = f"{name:<44}{tally.tries:>7}{_cells(counts)}{seconds:>9.1f}\n"
        sys.stdout.write(line)
        sys.stdout.writelines(f"    {text}\n" for text in tally.findings[:9])
        sys.stdout.flush()
    return tallies


def _cells(cells: Any) -> str:
    return "".join(f"{cell:>11}" for cell in cells)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a regular expression")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    args = parser.parse_args()
    from fuzz_table import TABLE

    out = args.out and args.out.absolute()
    chosen = {n: e for n, e in TABLE.items() if re.search(args.only, n)}
    start = time.perf_counter()
    with in_folder():
        tallies = run_table(chosen, args.tries, args.seed)
    totals = sum((t.counts for t in tallies.values()), collections.Counter())
    sys.stdout.write(f"{totals.total()} tries: {dict(totals)}\n")
    if out:
        result = {
            "command": "python " + " ".join(sys.argv),
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores; no GPU",
            "seconds": round(time.perf_counter() - start),
            "versions": {
                module.__name__: module.__version__
                for module in (hypothesis, tf, keras, tfmp)
            },
            "tries": totals.total(),
            "outcomes": dict(totals),
            "entries": {
                name: {"tries": tally.tries, **tally.counts}
                for name, tally in tallies.items()
            },
            "findings": {
                n: t.findings for n, t in tallies.items() if t.findings
            },
        }
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
