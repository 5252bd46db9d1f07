"""Files that are not what they should be, for everything that reads one.

    python tests/fuzz_files.py --tries 10000 --seed 0

A try takes a good file and changes it: bytes, cuts, or a value of its JSON for
an odd one, under a digest that is right where the file has one.  Reading it
must give a value, or a `ValueError` of fewer than 2,000 characters that names
the file; a model that is loaded into is then as it was, bit for bit.
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import hashlib
import json
import os
import pathlib
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfmp
from tfmp import checkpoints, reporting
from tfmp._support import sealed_files
from tfmp.callbacks import backup_notes
from tfmp.reporting import page
from tfmp.reporting.analysis import analyse

ALIASES = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**400, 1e308, float("nan"), float("inf")),
    *("", "x" * 5000, "\0", "mixed_float8", "(", "(a+)+$"),
    *([], {}, [None], {"": None}, [[[[[]]]]], {"name": {}}, ["x"] * 1000),
    [["float32", [2**60], ""]],
    [["float32", [-1], "AAAA"]],
    [["O", [1], "AAAAAAAA"]],
)
Read = Callable[[pathlib.Path], Any]


def model() -> keras.Model:
    """A compiled model with FP8 state and a seed."""
    made = keras.Sequential(
        [
            keras.Input([4]),
            tfmp.layers.Dense(4, dtype="mixed_float8"),
            keras.layers.Dropout(0.5, seed=1),
        ]
    )
    made.compile(tfmp.optimizers.LossScaleOptimizer("adam"), "mse")
    made.fit(np.ones([8, 4]), np.ones([8, 4]), verbose=0)
    return made


def odd_value(value: Any, dice: random.Random) -> Any:
    """Returns a JSON value with one place of it changed."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(each: Any) -> None:
        keys = each if isinstance(each, dict) else range(len(each))
        for key in keys:
            places.append((each, key))
            if isinstance(each[key], (dict, list)):
                walk(each[key])

    if isinstance(value, (dict, list)):
        walk(value)
    if not places or dice.random() < 0.05:
        return dice.choice(ODD)
    holder, key = dice.choice(places)
    if dice.random() < 0.2:
        del holder[key]
    elif isinstance(holder, dict) and dice.random() < 0.2:
        holder[dice.choice(["x", "", "name", "policies"])] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(dice.choice(ODD))
    return value


def odd_bytes(content: bytes, dice: random.Random) -> bytes:
    """Returns bytes that were changed, cut, doubled, or are others."""
    kind = dice.randrange(5)
    place = dice.randrange(len(content)) if content else 0
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes([dice.randrange(256)]) + content[place:]
    if kind == 2:
        changed = bytearray(content)
        changed[place] ^= 1 << dice.randrange(8)
        return bytes(changed)
    if kind == 3:
        return dice.choice([b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe", b""])
    return content[:place] + content


class Kind:
    """A kind of file: how a good one is written, and what reads it."""

    def __init__(
        self, name: str, content: bytes, read: Read, has_head: bool = False
    ) -> None:
        self.name, self.content, self.read = name, content, read
        self.has_head = has_head

    def odd(self, dice: random.Random) -> bytes:
        """Returns a file that is not as it should be."""
        if dice.random() < 0.3:
            return odd_bytes(self.content, dice)
        if self.name.endswith((".yaml", ".yml")) and dice.random() < 0.2:
            return ALIASES.encode()
        if self.has_head:
            _, line, body = self.content.split(b"\n", 2)
            notes = odd_value(json.loads(line), dice)
            head = json.dumps(notes).encode().ljust(len(line)) + b"\n"
            digest = hashlib.sha256(head + body).hexdigest().encode()
            return sealed_files.MARK + digest + b"\n" + head + body
        lines = self.content.decode().splitlines()
        if self.name.endswith(".jsonl"):
            place = dice.randrange(len(lines))
            lines[place] = json.dumps(odd_value(json.loads(lines[place]), dice))
            return "\n".join([*lines, ""]).encode()
        return json.dumps(odd_value(json.loads(self.content), dice)).encode()


def policies() -> dict[str, Any]:
    """What a file of a `PrecisionMap` holds."""
    recipe = tfmp.recipes.serialize(tfmp.recipes.DelayedScaling(margin=1))
    return {
        "default": "mixed_float8",
        "policies": {
            "head": "float32",
            "x": {"name": "mixed_float8", "recipe": "current"},
            "y": {"name": "mixed_float8", "recipe": recipe},
        },
    }


def load_whole(target: keras.Model, path: pathlib.Path) -> None:
    """Loads a weights file, or sees that the model is as it was."""
    before = [np.array(v.numpy()) for v in checkpoints.variables(target)]
    try:
        checkpoints.load_weights(target, path)
    except BaseException:
        now = [np.array(v.numpy()) for v in checkpoints.variables(target)]
        for a, b in zip(before, now, strict=True):
            if a.tobytes() != b.tobytes():
                raise AssertionError("the model was changed") from None
        raise


def notes_of(path: pathlib.Path) -> None:
    """Reads the notes of a backup."""
    backup_notes.checked(checkpoints.read_notes(path), path)


def report_of(
    log: pathlib.Path, dice: random.Random, path: pathlib.Path
) -> None:
    """Reports about one odd file of a log, beside a good one."""
    beside = {"scales.jsonl": "run.json", "run.json": "scales.jsonl"}
    other = path.with_name(beside[path.name])
    other.write_bytes((log / other.name).read_bytes())
    (found,) = analyse([path.parent])
    page.render([found], [[]], [])
    found.to_dict()
    if dice.random() < 0.02:  # a second each
        reporting.write_report(path.parent, path.with_name("page.html"))


def kinds(folder: pathlib.Path) -> list[Kind]:
    """All that tfmp reads, with a good file of each."""
    target = model()
    weights = folder / "good.weights.h5"
    notes = {
        **{"first_epoch": 0, "epoch": 1, "batch": 2, "epochs": [0]},
        **{"history": {"loss": [1.0]}, "callbacks": {}},
        "precision": tfmp._switching.notes.precision_of(target),
    }
    checkpoints.save_weights(target, weights, notes)
    log = folder / "log"
    keras.utils.set_random_seed(0)
    monitor = tfmp.callbacks.ScaleMonitor(log, every=1)
    x = np.ones([16, 4])
    target.fit(x, x, batch_size=2, callbacks=[monitor], verbose=0)

    load = functools.partial(load_whole, target)
    report = functools.partial(report_of, log, random.Random(0))
    content, text = weights.read_bytes(), json.dumps(policies()).encode()
    choose = tfmp.PrecisionMap.load
    return [
        Kind("a.weights.h5", content, load, has_head=True),
        Kind("b.weights.h5", content, notes_of, has_head=True),
        Kind("map.json", text, choose),
        Kind("map.yaml", text, choose),
        Kind("scales.jsonl", (log / "scales.jsonl").read_bytes(), report),
        Kind("run.json", (log / "run.json").read_bytes(), report),
    ]


def attempt(kind: Kind, folder: pathlib.Path, dice: random.Random) -> str:
    """Reads one odd file; returns what came of it."""
    path = folder / kind.name
    path.write_bytes(kind.odd(dice))
    try:
        kind.read(path)
    except ValueError as error:
        said = str(error)
        if type(error) is not ValueError:
            return f"{type(error).__name__}: {said:.300}"
        named = str(path) in said or str(path.parent) in said
        if named and len(said) < 2000:
            return "rejected"
        return f"names no file, or is long ({len(said)}): {said:.300}"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.300}"
    return "read"


def run(tries: int, seed: int) -> dict[str, collections.Counter[str]]:
    """Tries files of each kind in turns; returns what came of them."""
    dice = random.Random(seed)
    found: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = pathlib.Path(name)
        odd = folder / "odd"
        odd.mkdir()
        every = kinds(folder)
        for number in range(tries):
            kind = every[number % len(every)]
            outcome = attempt(kind, odd, dice)
            found.setdefault(kind.name, collections.Counter())[outcome] += 1
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    found = run(args.tries, args.seed)
    for name, counts in found.items():
        sys.stdout.write(f"{name}\n")
        for outcome, count in counts.most_common():
            sys.stdout.write(f"  {count:>6}  {outcome}\n")
    sys.stdout.write(f"{time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
