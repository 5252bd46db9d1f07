"""Models trained to the end in precisions chosen by rule and by search.

    pip install '.[analysis,examples]'
    pip download recbole==1.2.1 --no-deps --dest data
    python benchmarks/precision_choice.py --data data \
        --out benchmarks/results/precision_choice.json

Of each workload of `choice_workloads.py`, and each seed: a model trains for an
epoch in bfloat16, is analysed, and searched for what loses least within a
budget of memory (operands kept for the backward pass, as the formats say): that
of each baseline, and the middle between bfloat16's and FP8's.  Then it trains
from the start in every choice that there is, and is evaluated on data that it
has not seen.  Choices that are the same train once.  All of it takes about two
hours on two cores of a CPU.

Time is predicted for an H200 and a batch of `--target_batch`; the training here
is real, but its speed says nothing about a GPU's.  `--quick` takes a part of
the data, one epoch and one seed.  What is done is written after each seed, and
`--resume` goes on from there.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import choice_workloads
import keras
import measuring
import numpy as np
import tensorflow as tf
from choice_workloads import Split, Task

import tfmp
from tfmp import analysis

CANDIDATES = ("mixed_float8", "mixed_bfloat16")
BASELINES = ("all mixed_bfloat16", "all mixed_float8", "torchao's rule")
QUICK = 40  # steps of an epoch


def trained(
    task: Task, split: Split, choice: Any, seed: int, epochs: int
) -> Any:
    """Trains a model from the start in a choice of precisions."""
    keras.utils.clear_session()  # names of layers are those of the map again
    keras.utils.set_random_seed(seed)
    model = task.make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a path that no layer has
        tfmp.convert(model, choice, filter="all")
    steps = epochs * -(-len(split.train[0]) // task.batch)
    rate = keras.optimizers.schedules.CosineDecay(task.rate, steps)
    optimizer = tfmp.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(rate), initial_scale=1.0, dynamic=False
    )
    model.compile(optimizer, task.loss, jit_compile=False)
    model.fit(*split.train, task.batch, epochs, verbose=0)
    return model


def searched(
    model: keras.Model, task: Task, split: Split, args: Any
) -> tuple[dict[str, analysis.SearchResult], analysis.Sensitivity]:
    """Returns what is best within each budget, by name; and why."""
    found = analysis.sensitivity(
        model,
        tf.data.Dataset.from_tensor_slices(split.train).batch(task.batch),
        task.loss,
        CANDIDATES,
        samples=args.batches * task.batch,
        roles=["layer"],
        verbose=False,
    )

    def search(memory: float) -> analysis.SearchResult:
        return analysis.search(
            model,
            found,
            budget={"memory": memory},
            candidates=CANDIDATES,
            batch_size=args.target_batch,
        )

    rules = {p.name: p.memory for p in search(float("inf")).baselines}
    budgets = {f"searched, memory of {k}": v for k, v in rules.items()}
    budgets["searched, middle"] = np.mean([rules[k] for k in BASELINES[:2]])
    return {k: search(float(v)) for k, v in budgets.items()}, found


def choices(results: dict[str, analysis.SearchResult]) -> dict[str, Any]:
    """Returns points by name, of the baselines and of what was found."""
    baselines = next(iter(results.values())).baselines
    points = {point.name: point for point in baselines}
    return points | {name: found.best for name, found in results.items()}


def run(task: Task, split: Split, seed: int, args: Any) -> list[dict[str, Any]]:
    """Returns a row for each choice: predicted, and trained."""
    first = trained(task, split, CANDIDATES[1], seed, 1)
    results, found = searched(first, task, split, args)
    policies = next(iter(results.values())).precision_map
    known: dict[str, tuple[float, float]] = {}
    rows = []
    for name, point in choices(results).items():
        key = str(sorted(point.choice.items()))
        if key not in known:
            chosen = dict(policies.items()) | point.choice
            start = time.perf_counter()
            precision = tfmp.PrecisionMap(chosen, CANDIDATES[1])
            model = trained(
                task, split, precision, seed, args.epochs or task.epochs
            )
            loss = model.evaluate(*split.test, task.batch, verbose=0)
            known[key] = loss, time.perf_counter() - start
        loss, seconds = known[key]
        low = sum(c == CANDIDATES[0] for c in point.choice.values())
        rows.append(
            {
                **{"seed": seed, "choice": name, "test_loss": loss},
                **{"loss_increase": point.loss_increase, "time": point.time},
                **{"memory": point.memory, "float8_layers": low},
                **{"layers": len(point.choice), "seconds": round(seconds, 1)},
                "analysis_seconds": found.seconds,
            }
        )
        print(f"  {seed} {name:48}{loss:.5f}  {low} in FP8", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns of each choice the mean test loss over seeds, and its spread."""
    found = {}
    for name in dict.fromkeys(row["choice"] for row in rows):
        own = [row["test_loss"] for row in rows if row["choice"] == name]
        spread = float(np.std(own, ddof=1)) if own[1:] else 0.0
        found[name] = {"test_loss": float(np.mean(own)), "deviation": spread}
    return found


def part(split: Split, task: Task) -> Split:
    """Returns little of the data."""
    size = QUICK * task.batch
    return Split(
        tuple(each[:size] for each in split.train),
        tuple(each[:size] for each in split.test),
    )


def done(args: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of an earlier run, by workload."""
    if not (args.resume and pathlib.Path(args.out).exists()):
        return {}
    found = json.loads(pathlib.Path(args.out).read_text())
    if found.get("settings") != settings(args):
        raise SystemExit(f"{args.out} is of other settings than these.")
    return {name: each["runs"] for name, each in found["workloads"].items()}


def settings(args: Any) -> dict[str, int | bool]:
    """Returns what rows of one file have in common."""
    names = "epochs", "batches", "target_batch", "quick"
    return {name: getattr(args, name) for name in names}


def arguments() -> Any:
    """The command line."""
    parser = measuring.parser(__doc__, 3)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--workloads", default=",".join(choice_workloads.TASKS))
    parser.add_argument("--epochs", type=int, default=0, help="0: to the end")
    parser.add_argument("--batches", type=int, default=4, help="to analyse")
    parser.add_argument("--target_batch", type=int, default=4096)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--resume", action="store_true", help="what --out has")
    args = parser.parse_args()
    if args.resume and not args.out:
        parser.error("--resume needs --out")
    if args.quick:
        args.rounds, args.epochs = 1, 1
    return args


def main() -> None:
    """Runs every workload and seed that has not run."""
    args = arguments()
    before = done(args)
    results = {k: {"summary": summary(v), "runs": v} for k, v in before.items()}
    for name in args.workloads.split(","):
        task = choice_workloads.TASKS[name]
        split = task.data(args.data)
        split = part(split, task) if args.quick else split
        print(name, flush=True)
        rows = before.get(name, [])
        for seed in sorted(set(range(args.rounds)) - {r["seed"] for r in rows}):
            rows = rows + run(task, split, seed, args)
            results[name] = {"summary": summary(rows), "runs": rows}
            written = {"settings": settings(args), "workloads": results}
            measuring.write(args.out, written)
        for choice, row in results[name]["summary"].items():
            print(
                f"  {choice:50}{row['test_loss']:.5f} ± {row['deviation']:.5f}"
            )


if __name__ == "__main__":
    main()
