"""One training step of every layer of Keras, in every precision.

    python benchmarks/layer_table.py --write

Each layer, as in `tests/every_layer.py` and but for most augmentations, runs
forwards and backwards in float32, and in three policies of 16 bits or FP8:
made under the global policy, converted, and called by a converted layer's own
code; in a graph and compiled by XLA.  What fails in float32 too is a matter of
Keras, TensorFlow or XLA.  `--write` keeps the table in `results/`: "" for what
works, else the beginning of the error.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
import test_every_layer  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "layer_table.json"


def row(name: str) -> dict[str, str]:
    """Returns what went wrong with a layer, by policy, way and mode."""
    found = {}
    for policy in ("float32", *test_every_layer.NARROW):
        for way in test_every_layer.WAYS:
            for jit_compile in (True, False):
                wrong = test_every_layer.run(name, policy, way, jit_compile)
                mode = "XLA" if jit_compile else "graph"
                found[f"{policy}, {way}, {mode}"] = wrong[:160]
    return found


def main() -> None:
    """Prints the table of what goes wrong, and keeps it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table")
    parser.add_argument("names", nargs="*", help="layers, by default all")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    names = given.names or test_every_layer.NAMES
    rows = {}
    for name in names:
        rows[name] = row(name)
        wrong = [f"{key}: {text}" for key, text in rows[name].items() if text]
        print(name, "fails" if wrong else "ok", *wrong[:1], flush=True)
        keras.backend.clear_session()
    if given.write:
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
        content = {"versions": versions, "rows": rows}
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
