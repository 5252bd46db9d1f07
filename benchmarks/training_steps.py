"""Times the training steps of whole models in every precision, on a CPU.

    python benchmarks/training_steps.py [--workloads mlp resnet gpt-10m]
    python benchmarks/training_steps.py --workloads gpt-100m --rounds 6

Models and precisions are those of `workloads.py`.  A step is what `fit` does
for a batch: the model's train function, on a batch from `tf.data`, with loss,
gradients, Adam, metrics and all FP8 state.

First, each precision runs in a process of its own, so that nothing is cached
and its memory is its own:

- `build_seconds`: making, converting and compiling the model;
- `first_step_seconds`: `fit` on one batch; `trace_seconds` of it in Python,
  `compile_seconds` in XLA, which is the rest less one step;
- `peak_mebibytes`: the most memory the process held until the last step;
  `peak_before_mebibytes` until the first, TensorFlow and the model included.

Then the steps are timed, all precisions in one process, round by round; the
models of `ONE_AT_A_TIME` do not fit beside each other, and run in processes of
their own, one after the other and again, `turns` times: there a "round" is the
median of one turn.  `import_seconds` are of fresh processes too.

A precision that does not run is listed with the reason.  `float8_layers` says
how many of the `layers_with_kernel` are in FP8: Keras has it for `Dense` and
`EinsumDense` only.
"""

from __future__ import annotations

import collections
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import import_time
import keras
import measuring
import numpy as np
import tensorflow as tf
import workloads

ONE_AT_A_TIME = ("gpt-100m",)
TURNS = 2
REFERENCES = ("Keras float8", "mixed_bfloat16", "mixed_float16", "float32")
# The state of one FP8 layer, in tfmp and in Keras.
STATE = ("amax", "inputs_scale")


def batches(workload: workloads.Workload) -> tf.data.Dataset:
    """Returns the same batch again and again, as `fit` takes it."""
    data = tuple(tf.constant(array) for array in workload.data())
    return tf.data.Dataset.from_tensors(data).repeat()


def stepper(model: keras.Model, data: tf.data.Dataset) -> Callable[[], Any]:
    """Returns what `fit` does for a batch, of a model that has been fitted."""
    return functools.partial(model.train_function, iter(data))


def first_step(model: keras.Model, data: tf.data.Dataset) -> dict[str, float]:
    """Trains on one batch; returns seconds, and those spent in tracing."""
    own, spent = model.train_step, 0.0

    def train_step(*args: Any) -> Any:
        nonlocal spent
        start = time.perf_counter()
        try:
            return own(*args)
        finally:
            spent += time.perf_counter() - start

    model.train_step = train_step
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    return {"first_step_seconds": seconds, "trace_seconds": spent}


def built(
    name: str, precision: str, jit_compile: bool
) -> tuple[keras.Model, tf.data.Dataset]:
    """Returns a workload's model in a precision, and its data."""
    workload = workloads.WORKLOADS[name]
    with warnings.catch_warnings():
        # Keras warns of every layer that has no float8; they are counted.
        warnings.filterwarnings("ignore", module="keras")
        model = workloads.build(workload, precision, jit_compile)
    return model, batches(workload)


def alone(
    name: str, precision: str, jit_compile: bool, rounds: int
) -> dict[str, Any]:
    """Returns what one precision costs, for a process of its own.

    Args:
        name: of the workload.
        precision: one of `workloads.PRECISIONS`.
        jit_compile: whether XLA compiles the step.
        rounds: steps to time, after the first and a warm one.
    """
    start = time.perf_counter()
    model, data = built(name, precision, jit_compile)
    found: dict[str, Any] = {"build_seconds": time.perf_counter() - start}
    found["peak_before_mebibytes"] = measuring.peak_mebibytes()
    found |= first_step(model, data)
    calls = {precision: stepper(model, data)}
    [times] = measuring.interleaved(calls, rounds, warm_up=1).values()
    found["compile_seconds"] = (
        found["first_step_seconds"]
        - found["trace_seconds"]
        - float(np.median(times)) / 1e3
    )
    found["peak_mebibytes"] = measuring.peak_mebibytes()
    found = {key: round(value, 2) for key, value in found.items()}
    return {**found, **layers(model), "step_milliseconds": times.tolist()}


def layers(model: keras.Model) -> dict[str, int]:
    """Returns how many parameters and layers a model has."""
    names = collections.Counter(v.name for v in model.variables)
    sizes = [
        int(np.prod(v.shape))
        for v in model.trainable_variables
        if not v.overwrite_with_gradient  # the state of FP8
    ]
    return {
        "parameters": sum(sizes),
        "layers_with_kernel": names["kernel"],
        "float8_layers": sum(names[name] for name in STATE),
    }


def together(
    name: str, precisions: Sequence[str], jit_compile: bool, rounds: int
) -> dict[str, np.ndarray]:
    """Returns the milliseconds of each round's step, all in one process."""
    calls = {}
    for precision in precisions:
        model, data = built(name, precision, jit_compile)
        model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
        calls[precision] = stepper(model, data)
    return measuring.interleaved(calls, rounds)


def in_processes(
    name: str, precisions: Sequence[str], jit_compile: bool, rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields what each precision costs alone, or the reason why it failed."""
    for precision in precisions:
        arguments = name, precision, jit_compile, rounds
        try:
            found = measuring.in_fresh_process(alone, *arguments)
        except Exception as error:
            found = {"reason": measuring.first_words(error)}
        yield precision, found


def measure(
    name: str, precisions: Sequence[str], jit_compile: bool, rounds: int
) -> dict[str, Any]:
    """Returns what a workload's steps cost in each precision."""
    one_by_one = name in ONE_AT_A_TIME
    steps = max(1, rounds // TURNS) if one_by_one else 3
    run = functools.partial(
        in_processes, name, jit_compile=jit_compile, rounds=steps
    )
    rows: dict[str, Any] = {}
    turns, ran = [], list(precisions)
    for _ in range(TURNS if one_by_one else 1):
        turns.append(dict(run(ran)))
        ran = [p for p in ran if "reason" not in turns[-1][p]]
        failed = {p: r for p, r in turns[-1].items() if "reason" in r}
        rows = turns[-1] | rows | failed
    if one_by_one:
        times = {
            p: np.array([np.median(t[p]["step_milliseconds"]) for t in turns])
            for p in ran
        }
    else:
        times = measuring.in_fresh_process(
            together, name, ran, jit_compile, rounds
        )
    for row in rows.values():
        row.pop("step_milliseconds", None)
    for precision, row in measuring.summary(times, REFERENCES).items():
        rows[precision] |= row
    return {
        "batch": workloads.WORKLOADS[name].batch,
        "interleaved_in_one_process": not one_by_one,
        "turns": TURNS if one_by_one else None,
        "steps_a_turn": steps if one_by_one else None,
        "precisions": rows,
    }


def import_seconds() -> dict[str, Any]:
    """Returns what imports take in fresh processes."""
    cases = {
        "tensorflow": ("tensorflow", ""),
        "tfmp": ("tfmp", ""),
        "tfmp after tensorflow": ("tfmp", "import tensorflow"),
    }
    return {
        name: measuring.spread([import_time.seconds(*case) for _ in range(3)])
        for name, case in cases.items()
    }


def show(name: str, found: dict[str, Any]) -> None:
    """Prints what does not fit into the table of times."""
    for precision, row in found["precisions"].items():
        text = row.get("reason") or (
            f"build {row['build_seconds']:.1f} s, first step "
            f"{row['first_step_seconds']:.1f} s (trace "
            f"{row['trace_seconds']:.1f}, compile "
            f"{row['compile_seconds']:.1f}), peak "
            f"{row['peak_mebibytes']:.0f} MiB, {row['float8_layers']} of "
            f"{row['layers_with_kernel']} layers in FP8"
        )
        print(f"{name}, {precision}: {text}", flush=True)


def main() -> None:
    """Prints a table, and writes JSON if asked to."""
    parser = measuring.parser(__doc__, rounds=15)
    names = [name for name in workloads.WORKLOADS if name not in ONE_AT_A_TIME]
    parser.add_argument(
        "--workloads", nargs="+", choices=workloads.WORKLOADS, default=names
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=workloads.PRECISIONS,
        default=workloads.PRECISIONS,
    )
    parser.add_argument("--no-jit", action="store_true")
    args = parser.parse_args()
    results: dict[str, Any] = {
        "jit_compile": not args.no_jit,
        "rounds": args.rounds,
        "import_seconds": import_seconds(),
        "workloads": {},
    }
    found = results["workloads"]
    for name in args.workloads:
        arguments = args.precisions, not args.no_jit, args.rounds
        found[name] = measure(name, *arguments)
        show(name, found[name])
        measuring.write(args.out, results)
    rows = {name: row["precisions"] for name, row in found.items()}
    subjects = [p for p in workloads.PRECISIONS if p.startswith("tfmp")]
    print(measuring.table(rows, args.precisions, subjects, REFERENCES))


if __name__ == "__main__":
    main()
