"""Plants one fault at a time in a copy of the tree; the quick tests must fail.

    python tests/mutations.py
    python tests/mutations.py --only normalization sealed_files

Each fault is one line that a tired author could have written so.  It runs the
test files nearest to the line (`covering.py`), without those marked slow, until
one fails.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import covering

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", "__pycache__", "logs", ".build", "*.egg-info")


class Fault(NamedTuple):
    """A line of tfmp, and what it is changed into."""

    file: str
    line: str
    becomes: str


FAULTS = (
    Fault("_core/scaling", "tf.minimum(bits, INFINITY)", "bits"),
    Fault(
        "_core/scaling",
        "tf.where(is_observed(amax), scale, tf.ones_like(scale))",
        "scale",
    ),
    Fault(
        "_core/quantization",
        "-target.max, target.max)\n    return",
        "-1e9, 1e9)\n    return",
    ),
    Fault("_core/bit_rounding", "lost = size > INFINITY", "lost = size < 0"),
    Fault(
        "_core/product_scales",
        'looks[recipes.ROLES.index("kernel")] = True',
        'looks[recipes.ROLES.index("kernel")] = False',
    ),
    Fault(
        "_core/product_scales",
        "powers[lhs].inverse * powers[rhs].inverse",
        "powers[lhs].inverse * powers[lhs].inverse",
    ),
    Fault(
        "optimizers/amax_history",
        "_scaled(tf.where(good, pushed, history), by_role)",
        "_scaled(pushed, by_role)",
    ),
    Fault(
        "optimizers/amax_history",
        "by_role = tf.stack([1.0, 1.0, factor])",
        "by_role = tf.ones([3])",
    ),
    Fault(
        "optimizers/scale_rule",
        "overflows + 1 >= self.hysteresis",
        "overflows >= self.hysteresis",
    ),
    Fault(
        "optimizers/scale_rule",
        "tf.minimum(scale * growth, high)",
        "scale * growth",
    ),
    Fault(
        "layers/normalization",
        "tf.unstack(tf.where(finite, after, before))",
        "tf.unstack(after)",
    ),
    Fault(
        "layers/normalization",
        "after = replicas.mean(after)",
        "after = after + 0.0",
    ),
    Fault(
        "_support/sealed_files",
        'if first != MARK + digest.hexdigest().encode() + b"\\n":',
        "if False:",
    ),
    Fault("_support/sealed_files", "digest.update(head)", "digest.copy()"),
    Fault("conversion/programs", "setattr(model, name, None)", "pass"),
    Fault(
        "callbacks/backup",
        "if self._resumed is not None:",
        "if self._resumed is None:",
    ),
    Fault(
        "callbacks/adaptive_precision",
        'self._loss.set_state(LossState(**state["loss"]))',
        "pass",
    ),
    Fault(
        "callbacks/adaptive_precision",
        "self._layers.follow()",
        "pass",
    ),
    Fault(
        "callbacks/precision_scheduler",
        'self._count.set_state(state["count"])',
        "pass",
    ),
    Fault(
        "_command_line/export_command",
        "kernels=options.kernels",
        "kernels=options.format",
    ),
    Fault(
        "callbacks/precision_ladders",
        "place = max(goal, goal if there is None else there)",
        "place = goal",
    ),
    Fault(
        "cost_model",
        "return max(arithmetic, memory",
        "return min(arithmetic, memory",
    ),
    Fault("policies/precision_map", '"a string") in self:', '"") in ():'),
    Fault(
        "hardware",
        "return min(self.deciding",
        "return max(self.deciding",
    ),
)


def planted(fault: Fault, folder: pathlib.Path) -> bool:
    """Runs the quick tests nearest to a fault; returns whether one failed."""
    path = folder / "tfmp" / f"{fault.file}.py"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(fault.line, fault.becomes), encoding="utf-8")
    try:
        imports = covering.graph(folder)
        steps = covering.covering({f"tfmp/{fault.file}.py"}, imports, 3)
        for files in filter(None, steps):
            if fails(files, folder):
                return True
    finally:
        path.write_text(whole, encoding="utf-8")
    return False


def fails(files: list[str], folder: pathlib.Path) -> bool:
    """Whether one of the tests of these files fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        check=False,
    )
    # 2: stopped at the first that failed; 5: no test but slow ones.
    if done.returncode not in (0, 1, 2, 5):
        raise SystemExit(done.stdout.decode()[-2000:])
    return done.returncode in (1, 2)


def main() -> None:
    """Plants all, prints a line for each, and fails if one was not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="parts of names")
    only = parser.parse_args().only
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "tfmp"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for fault in FAULTS:
            if only and not any(part in fault.file for part in only):
                continue
            start = time.perf_counter()
            seen = planted(fault, folder)
            missed += not seen
            took = f"{time.perf_counter() - start:.0f} s"
            said = "caught" if seen else "MISSED"
            print(
                f"{said} {took:>6}  {fault.file}: {fault.becomes}", flush=True
            )
    if missed:
        raise SystemExit(f"{missed} faults were not seen")


if __name__ == "__main__":
    main()
