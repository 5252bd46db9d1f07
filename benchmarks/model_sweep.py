"""tfmp on every model of keras-hub, keras.applications and keras-rs.

    python benchmarks/model_sweep.py

Each model that the installed libraries have is made tiny, with random weights,
in a process of its own, and then: converted, its report printed; outputs and
gradients held against float32's, in dB; trained in FP8 and in 16 bits; saved
and loaded; reverted; trained by LoRA or exported; and asked for text, if it
generates.  Beside it are Keras' own policies of 16 bits; what fails is done
again by Keras alone, in float32 and in 16 bits, which tells whose fault it is.

It takes turns, as one model costs 15 to 40 seconds of a core: backbones are
trained by XLA in FP8, one in four by LoRA, and one in four is exported; their
tasks are trained in a graph, in FP8 and float16; what has no task in all three.

`--quick` leaves out what runs in FP8, and the trainings: 3 to 10 seconds of a
core.  The next whole run tries such a model again.

A model without a configuration is in the table as not tried.  What is found is
written as each model ends, to `results/model_sweep.json` and `.md`; the next
run goes on from there.  `--again` tries models once more, those that are named
or all; `--table` only writes the table.  keras-rs may be missing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import measuring  # noqa: E402
import sweep_checks  # noqa: E402
import sweep_table  # noqa: E402
from sweep_subjects import Subject, subjects  # noqa: E402

RESULT = HERE / "results" / "model_sweep.json"
TABLE = RESULT.with_suffix(".md")
CONTEXT = multiprocessing.get_context("forkserver")
Row = dict[str, Any]


def row(subject: Subject, seconds: float, quick: bool) -> Row:
    """Tries one model in a process of its own; a crash is a row too."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "cells.json")
        given = subject, str(path), quick
        process = CONTEXT.Process(target=sweep_checks.run, args=given)
        process.start()
        process.join(seconds)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        cells = json.loads(path.read_text()) if path.exists() else {}
    for cell in cells.values():
        if cell.pop("running", False):
            ended = f"exit code {process.exitcode}"
            cell["error"] = f"longer than {seconds:g} s" if late else ended
            cell["fault"] = sweep_table.NOT_KNOWN
    return {
        "quick": quick,
        "exit": process.exitcode,
        "seconds": round(time.perf_counter() - start, 1),
        "cells": cells,
    }


def rows(
    chosen: Iterable[Subject], seconds: float, quick: bool, workers: int
) -> Iterator[tuple[Subject, Row]]:
    """Gives the rows of models as they end."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = {
            pool.submit(row, each, seconds, quick): each for each in chosen
        }
        for done in concurrent.futures.as_completed(waiting):
            yield waiting[done], done.result()


def main() -> None:
    """Goes on with the table, and keeps what is found."""
    given = _arguments()
    every = {f"{each.library}: {each.name}": each for each in subjects()}
    path = pathlib.Path(given.out)
    kept = json.loads(path.read_text())["rows"] if path.exists() else {}
    found = {k: v for k, v in kept.items() if k in every and "cells" in v}
    found |= {k: {"note": s.note} for k, s in every.items() if s.note}
    chosen = [s for k, s in every.items() if _asked(s, found.get(k), given)]
    if not given.table:
        how = given.limit, given.quick, given.workers
        for each, cells in rows(chosen, *how):
            found[f"{each.library}: {each.name}"] = cells
            wrong = sweep_table.errors(cells)
            print(each.name, cells["seconds"], *wrong[:3], flush=True)
            _write(path, every, found)
    _write(path, every, found)


def _asked(
    subject: Subject, known: Row | None, given: argparse.Namespace
) -> bool:
    """Whether a model is to be tried now."""
    if subject.note or (given.names and subject.name not in given.names):
        return False
    more = known is None or (known.get("quick") and not given.quick)
    return bool(more or given.again)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="models, by default all")
    parser.add_argument("--again", action="store_true", help="also known ones")
    parser.add_argument("--table", action="store_true", help="try none")
    parser.add_argument("--quick", action="store_true", help="see above")
    parser.add_argument("--limit", type=float, default=600, help="seconds each")
    parser.add_argument("--out", default=RESULT, help="another file")
    parser.add_argument("--workers", type=int, default=1, help="at once")
    return parser.parse_args()


def _write(
    path: pathlib.Path, every: Iterable[str], found: dict[str, Row]
) -> None:
    """Keeps rows and table, each whole or not at all."""
    later = {"note": "not tried yet"}
    named = {key: found.get(key, later) for key in every}
    content = json.dumps({**measuring.facts(), "rows": named}, indent=1) + "\n"
    table = sweep_table.markdown(json.loads(content))
    for target, text in ((path, content), (path.with_suffix(".md"), table)):
        draft = target.with_suffix(".draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)


if __name__ == "__main__":
    CONTEXT.set_forkserver_preload(["sweep_checks"])
    main()
