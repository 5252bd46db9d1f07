"""One training step of every layer of Keras, in every precision.

    python tests/layer_table.py --write

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
import multiprocessing
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from every_layer import (  # noqa: E402
    CASES,
    CELLS,
    OF_PHOTOS,
    VARIANTS,
    Around,
    inputs_of,
    make,
    train,
)
from keras import layers  # noqa: E402

import tfmp  # noqa: E402
from benchmarks import measuring  # noqa: E402
from tfmp import policies  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "layer_table.json"
NARROW = ("mixed_bfloat16", "mixed_float16", "mixed_float8")
# The others of these are long to compile, and not for training steps.
PHOTOS = ("CenterCrop", "RandomCrop", "RandomFlip", "Rescaling", "Resizing")
NAMES = [
    *(name for name in CASES if name not in OF_PHOTOS or name in PHOTOS),
    *CELLS,
    *VARIANTS,
]
WAYS = ("global", "converted", "in code")


def made(name: str, policy: str, way: str) -> layers.Layer:
    """Makes a layer in one of the ways in which it gets 16 bits."""
    if way == "global":
        with tfmp.policy_scope(policy, convert=False):
            return make(name)
    if way == "converted":
        layer = make(name)
    else:
        layer = Around(lambda: make(name))
    tfmp.convert(layer, policy, filter="all")
    return layer


def run(name: str, policy: str, way: str, jit_compile: bool) -> str:
    """Trains a layer whose inputs come from one of the same policy."""
    dtype = policies.get(policy).compute_dtype
    return train(made(name, policy, way), inputs_of(name), jit_compile, dtype)


def row(name: str) -> dict[str, str]:
    """Returns what went wrong with a layer, by policy, way and mode."""
    warnings.simplefilter("ignore")
    found = {}
    for policy in ("float32", *NARROW):
        for way in WAYS:
            for jit_compile in (True, False):
                wrong = run(name, policy, way, jit_compile)
                mode = "XLA" if jit_compile else "graph"
                found[f"{policy}, {way}, {mode}"] = wrong[:160]
    return found


def rows(names: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Gives the rows of layers, some in each process: XLA keeps programs."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(maxtasksperchild=8) as pool:
        yield from zip(names, pool.imap(row, names), strict=True)


def main() -> None:
    """Prints the table of what goes wrong, and keeps it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table")
    parser.add_argument("names", nargs="*", help="layers, by default all")
    given = parser.parse_args()
    found = {}
    for name, cells in rows(given.names or NAMES):
        found[name] = cells
        wrong = [f"{key}: {text}" for key, text in cells.items() if text]
        print(name, "fails" if wrong else "ok", *wrong[:1], flush=True)
    if given.write:
        content = {**measuring.facts(), "rows": found}
        RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
