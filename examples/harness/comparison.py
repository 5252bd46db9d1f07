"""Trains an example in all policies, in turns, and writes what came out."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import keras
import tensorflow as tf

import tfmp
from examples.harness import picture, summary, training
from examples.harness.example import Data, Example
from examples.harness.settings import Settings
from tfmp import hardware


def machine() -> str:
    """Says what the steps run on."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"a CPU; {hardware.FLOAT8_ON_CPU}"
    details = tf.config.experimental.get_device_details(gpus[0])
    return str(details.get("device_name", "a GPU"))


def load(example: Example, settings: Settings) -> Data:
    """Reads the data of an example.

    Raises:
        ValueError: if they are not here, or too few for a batch.
    """
    data = example.data(settings.size, settings.data_dir)
    data.batches(settings.batch_size or example.batch_size, seed=0)
    return data


def run_all(
    example: Example, data: Data, settings: Settings
) -> list[dict[str, Any]]:
    """Trains every policy and seed.

    The policies take turns, so that a busy machine is as busy for all.
    """
    plan = [(p, s) for s in range(settings.seeds) for p in settings.policies]
    train, runs = example.train or training.train, []
    for number, (policy, seed) in enumerate(plan, 1):
        print(f"\n[{number}/{len(plan)}] {policy}, seed {seed}", flush=True)
        runs.append(train(example, policy, seed, data, settings))
    return runs


def compare(example: Example, data: Data, settings: Settings) -> dict[str, Any]:
    """Trains, prints the table, and writes all numbers and the picture.

    Args:
        example: what to train.
        data: on what.
        settings: in what, how often, and where to write to.

    Returns:
        What `results.json` holds.
    """
    runs = run_all(example, data, settings)
    rows = summary.summarize(runs)
    given = dataclasses.asdict(settings)
    result = {
        "example": example.name,
        "says": example.says,
        "command": settings.command(example.name),
        "date": datetime.date.today().isoformat(),
        "settings": {**given, "size": settings.size.value},
        "versions": {m.__name__: m.__version__ for m in (tf, keras, tfmp)},
        "machine": machine(),
        "gallery": summary.gallery(example, rows),
        "table": rows,
        "runs": runs,
    }
    output = settings.output / example.name
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, default=str)
    (output / "results.json").write_text(text + "\n")
    picture.draw(example, runs, output / f"{example.name}.png")
    print(f"\n{example.says}; steps ran on {machine()}.\n")
    print(summary.table(example, rows))
    for policy, row in rows.items():
        for name, said in row["afterwards"].items():
            if isinstance(said, str):
                print(f"\n{policy}, {name}:\n{said}")
    print(f"\nresults.json and the picture: {output}")
    return result
