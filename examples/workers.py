"""Workers: one example, trained by several processes as on several machines.

Two workers; one of them killed on its way, and all started again; and by Ray:

    python -m examples.workers tables --smoke
    python -m examples.workers tables --smoke --kill_at=20
    python -m examples.workers tables --smoke --kill_at=20 --ray

Each worker is a process that runs `model.fit` in FP8 under
`tf.distribute.MultiWorkerMirroredStrategy`, and backs up every five steps.  On
several machines each is started with its own `TF_CONFIG`; here one command
starts all of them, and again if one dies.  At the end weights, FP8 scales and
optimizer of all workers are compared, bit for bit.  `--kill_at` trains twice,
undisturbed, and with a worker that is killed before that step, and compares
the two.  `--ray` has Ray Train start the workers: `pip install 'ray[train]'`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import sys
from typing import Any

from absl import app, flags, logging

from examples.__main__ import EXAMPLES, define_flags, settings
from examples.harness import cluster
from examples.harness.example import Example
from examples.harness.settings import Settings

FLAGS = flags.FLAGS
SAME = ("weights", "float8", "optimizer")
Found = list[dict[str, Any]]


def define_own_flags() -> None:
    define_flags()
    flags.DEFINE_integer("workers", 2, "How many.", lower_bound=1)
    flags.DEFINE_integer("restarts", 3, "At most.", lower_bound=0)
    flags.DEFINE_integer("kill_at", 0, "Kill one before it.", lower_bound=0)
    flags.DEFINE_bool("ray", False, "Have Ray Train start the workers.")
    flags.DEFINE_bool("is_worker", False, "Of the program itself.")
    FLAGS.set_default("policies", ["mixed_float8"])
    FLAGS.set_default("jit_compile", False)  # XLA has no collectives on CPUs


def load(name: str) -> Example:
    logging.set_verbosity(logging.ERROR)
    return importlib.import_module(f"examples.{name}").EXAMPLE


def check(example: Example, chosen: Settings) -> None:
    """Refuses what workers cannot train, before any of them starts.

    Raises:
        ValueError: if so.
    """
    from examples.harness import comparison

    if example.loop or example.train:
        raise ValueError(f"{example.name} does not train by `model.fit`")
    if len(chosen.policies) != 1:
        raise ValueError(f"One policy, please. Received: {chosen.policies}")
    data = comparison.load(example, chosen)
    batch_size = chosen.batch_size or example.batch_size
    steps = len(data.batches(batch_size, seed=0)) * example.passes
    steps *= chosen.epochs or example.epochs
    if FLAGS.kill_at >= steps:
        raise ValueError(
            f"`kill_at` must be less than the {steps} steps. "
            f"Received: {FLAGS.kill_at}"
        )


def work(name: str, chosen: Settings, kill_at: int) -> None:
    """Trains as the worker that `TF_CONFIG` says."""
    from examples.harness import worker

    worker.train(load(name), chosen, kill_at)


def trained(name: str, chosen: Settings, kill_at: int) -> Found:
    """Trains by all workers; returns what each of them has at the end."""
    shutil.rmtree(chosen.output, ignore_errors=True)
    chosen.output.mkdir(parents=True)
    if FLAGS.ray:
        from examples.harness import ray_cluster

        ray_cluster.run(
            work, (name, chosen, kill_at), FLAGS.workers, FLAGS.restarts
        )
    else:
        own = ["--is_worker", f"--output={chosen.output}"]
        own.append(f"--kill_at={kill_at}")
        command = [sys.executable, "-m", "examples.workers", *sys.argv[1:]]
        cluster.run([*command, *own], FLAGS.workers, FLAGS.restarts)
    files = sorted(chosen.output.glob("worker-*.json"))
    return [json.loads(each.read_text()) for each in files]


def compare(title: str, found: Found) -> bool:
    """Says whether all hold the same, or what differs."""
    names = (*SAME, "history")
    differ = [n for n in names if any(e[n] != found[0][n] for e in found)]
    words = f"differ in {', '.join(differ)}" if differ else "equal, bit for bit"
    print(f"{title}: weights, FP8 scales, optimizer, history: {words}")
    return not set(differ) & set(SAME)


def main(argv: list[str]) -> None:
    names = argv[1:]
    if len(names) != 1 or names[0] not in EXAMPLES:
        raise app.UsageError(
            f"One example, please, of {', '.join(EXAMPLES)}. Received: {names}"
        )
    [name] = names
    if FLAGS.is_worker:  # its strategy comes before any data
        work(name, settings(), FLAGS.kill_at)
        return
    try:
        chosen = settings()
        check(load(name), chosen)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    folder = (chosen.output / "workers" / name).resolve()
    whole = trained(
        name, dataclasses.replace(chosen, output=folder / "whole"), 0
    )
    last = {k: f"{v[-1]:.4f}" for k, v in whole[0]["history"].items()}
    print(f"\nafter {len(whole[0]['history']['loss'])} epochs: {last}")
    same = compare(f"{len(whole)} workers", whole)
    if FLAGS.kill_at:
        into = dataclasses.replace(chosen, output=folder / "killed")
        again = trained(name, into, FLAGS.kill_at)
        dead = float((into.output / "killed").read_text())
        seconds = max(each["first_step_at"] for each in again) - dead
        print(
            f"\nkilled before step {FLAGS.kill_at}; all went on from step "
            f"{again[0]['first_step']}, which ended {seconds:.1f} s later"
        )
        same &= compare("with a worker killed, and without", [*again, *whole])
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    define_own_flags()
    app.run(main)
