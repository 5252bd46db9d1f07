"""Times what FP8 adds to a training step as models and FP8 tensors grow.

    python benchmarks/step_scaling.py [--rounds 15] [--out step_scaling.json]

Models: an MLP and a GPT-like decoder, of which depth, width or batch grows
while the rest stays, in FP8 (delayed scaling) against `mixed_bfloat16`: what
`fit` does for a batch, both in one process, round by round.

The optimizer: `LossScaleOptimizer` renews the FP8 state of all layers at once.
That is timed alone ("FP8 update"), on so many layers, beside an SGD over their
kernels, of 16 elements each, so that both have next to nothing to compute; and
`apply` of a `LossScaleOptimizer` around that SGD, with the FP8 state and
without.  Of each, what XLA's optimised program has: `kernels` are fusions,
copies and calls of libraries, `instructions` are all, those inside of fusions
too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import tensorflow as tf
import training_steps
import workloads

import tfmp
from tfmp._inspection import hlo
from tfmp._support import tables
from tfmp.optimizers.amax_history import AmaxHistory

FLOAT8, WIDE = PRECISIONS = ("tfmp delayed", "mixed_bfloat16")
INNER, UPDATE, BOTH, PLAIN = OPTIMIZERS = (
    "SGD",
    "FP8 update",
    "LossScaleOptimizer, FP8",
    "LossScaleOptimizer",
)
# Without FP8 its program on a CPU grows with the square of the layers: XLA
# repeats the search for bad gradients in each of the updates.
PLAIN_LAYERS = 64
BLOCK_SECONDS = 0.02


def mlp(
    depth: int = 4, width: int = 512, batch: int = 256
) -> workloads.Workload:
    make = functools.partial(workloads.mlp, width, width, depth, 10)
    return workloads.Workload(make, (width,), 10, batch)


def gpt(depth: int = 2, width: int = 256, batch: int = 4) -> workloads.Workload:
    return workloads.text(128, width, depth, width // 64, 256, batch)


SIZES: dict[str, tuple[Callable[..., workloads.Workload], dict[str, Any]]] = {
    "mlp": (
        mlp,
        {
            "depth": (1, 4, 16),
            "width": (128, 512, 2048),
            "batch": (32, 256, 1024),
        },
    ),
    "gpt": (
        gpt,
        {"depth": (1, 2, 4), "width": (128, 256, 512), "batch": (1, 4, 16)},
    ),
}
LAYERS = (1, 4, 16, 64, 256)


def step_times(
    workload: workloads.Workload, rounds: int, jit_compile: bool
) -> dict[str, Any]:
    """Returns a summary of a workload's steps in both precisions."""
    data, calls = training_steps.batches(workload), {}
    for precision in PRECISIONS:
        model = workloads.build(workload, precision, jit_compile)
        training_steps.first_step(model, data)
        calls[precision] = training_steps.stepper(model, data)
    return measuring.summary(measuring.interleaved(calls, rounds), [WIDE])


def growth(rounds: int, jit_compile: bool, sizes: Any = SIZES) -> Any:
    """Returns a summary for each size of each model."""
    found: dict[str, Any] = {}
    for name, (make, grown) in sizes.items():
        for what, values in grown.items():
            for value in values:
                key = f"{name}, {what} {value}"
                workload = make(**{what: value})
                found[key] = step_times(workload, rounds, jit_compile)
                print(key, flush=True)
                keras.backend.clear_session()
    return found


def updates(count: int) -> dict[str, Callable[[], Any]]:
    """Returns calls of `apply` for so many layers, by optimizer."""
    low = kernels(count, "mixed_float8")
    found = {
        INNER: apply(keras.optimizers.SGD(1e-6), low),
        UPDATE: renewal(low),
        BOTH: apply(loss_scaling(), low),
    }
    if count <= PLAIN_LAYERS:
        wide = kernels(count, "mixed_bfloat16")
        found[PLAIN] = apply(loss_scaling(), wide)
    return found


def kernels(count: int, policy: str) -> list[keras.Variable]:
    """Returns the kernels of so many layers of a policy."""
    options = {"use_bias": False, "dtype": policy}
    layers = [tfmp.layers.Dense(4, **options) for _ in range(count)]
    for layer in layers:
        layer.build([None, 4])
    return [layer.kernel for layer in layers]


def loss_scaling() -> keras.Optimizer:
    return tfmp.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-6), initial_scale=1.0, dynamic=False
    )


def apply(optimizer: keras.Optimizer, variables: Any) -> Callable[[], Any]:
    """Returns a compiled call of `apply` with a gradient for each variable."""
    optimizer.build(variables)
    return compiled(lambda given: optimizer.apply(given, variables), variables)


def renewal(variables: Any) -> Callable[[], Any]:
    """Returns a compiled call of what `apply` does with the FP8 state."""
    amax = AmaxHistory(variables)
    amax.history = keras.Variable(tf.zeros(amax.shape), trainable=False)

    def renew(_: list[tf.Tensor]) -> None:
        amax.renew(amax.observed())

    return compiled(renew, [])


def compiled(function: Callable[..., None], like: Any) -> Callable[[], Any]:
    """Returns a compiled call with a tensor of ones for each variable."""
    run = tf.function(function, jit_compile=True, autograph=False)
    return functools.partial(
        run, [tf.ones(variable.shape) for variable in like]
    )


def program_size(call: Any) -> dict[str, int]:
    """Returns how much XLA's optimised program has of what."""
    write = call.func.experimental_get_compiler_ir(*call.args)
    program = hlo.Program(write(stage="optimized_hlo"))
    computations = program.computations.values()
    return {
        "kernels": program.kernels,
        "instructions": sum(len(c.instructions) for c in computations),
    }


def update_cost(count: int, rounds: int) -> dict[str, Any]:
    """Returns what updates of so many layers cost, by optimizer."""
    calls = updates(count)
    times = measuring.interleaved(calls, rounds, 3, BLOCK_SECONDS)
    rows = measuring.summary(times, [INNER, PLAIN])
    return {name: rows[name] | program_size(calls[name]) for name in rows}


def show(costs: dict[str, Any]) -> None:
    """Prints what the optimizers cost, by the number of layers."""
    lines = [["layers", "update", "us", "us a layer", "kernels", "all"]]
    for count, row in costs.items():
        for name, found in row.items():
            micros = found["milliseconds"]["median"] * 1e3
            each = f"{micros:.0f}", f"{micros / int(count):.2f}"
            sizes = str(found["kernels"]), str(found["instructions"])
            lines.append([count, name, *each, *sizes])
    print("\n".join(["", *tables.lines(lines)]))


def main() -> None:
    """Prints tables, and writes JSON if asked to."""
    parser = measuring.parser(__doc__, rounds=15)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=[*SIZES, "optimizer"],
        default=[*SIZES, "optimizer"],
    )
    parser.add_argument("--no-jit", action="store_true", help="of the models")
    args = parser.parse_args()
    sizes = {name: SIZES[name] for name in SIZES if name in args.parts}
    models_found = growth(args.rounds, not args.no_jit, sizes)
    if models_found:
        print(measuring.table(models_found, PRECISIONS, [FLOAT8], [WIDE]))
    counts = LAYERS if "optimizer" in args.parts else ()
    costs = {str(n): update_cost(n, args.rounds) for n in counts}
    if costs:
        show(costs)
    results = {
        "jit_compile": not args.no_jit,
        "rounds": args.rounds,
        "models": models_found,
        "updates_by_layers": costs,
    }
    measuring.write(args.out, results)


if __name__ == "__main__":
    main()
