"""What FP8 costs in accuracy, trained to the end, beside other libraries.

    python benchmarks/accuracy.py --out benchmarks/results/accuracy.json

Models and data of `choice_workloads.py`.  In each seed all rows start from the
same weights and see the same batches; a row's cost is the mean over seeds of

    100 * (its loss / bfloat16's - 1)

on data that it has not seen, with the standard error of that mean.  Rows of
other libraries are their arithmetic in float32 (`peers.py`); Keras' float8 runs
without XLA, which would remove it.

The learning rate warms up.  Without that, the first two steps of Adam more or
less move this GPT's loss by 0.4 to 1.7 % in bfloat16, which is more than FP8
does, and Keras' float8, whose scales are wrong for two steps, looks better than
it is.

Each training is written when it ends, and the next run goes on from there.
`--part 4` takes a quarter of the data.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import choice_workloads
import keras
import masked_bytes
import measuring
import numpy as np
import peers
from choice_workloads import Split, Task
from peers import Arithmetic

import tfmp
from tfmp._support import tables
from tfmp.conversion.records import flatten

BASE = "bfloat16"
KERAS = "Keras float8"
PROJECTIONS = ("query", "key", "value", "attention_output")
PRESET = "delayed_high_precision_projections"
OUTPUTS = tfmp.recipes.DelayedScaling(high_precision=("output",))
DENSE = keras.layers.Dense, keras.layers.EinsumDense
HEADS = ["what is in FP8", "seeds", "loss", "above bfloat16", "+-"]
Row = Callable[[keras.Model], None]


def products(model: keras.Model) -> dict[str, keras.Layer]:
    """Returns the dense layers and convolutions of a model, by path."""
    kinds = *DENSE, keras.layers.Conv2D
    every = flatten(model).items()
    return {path: each for path, each in every if isinstance(each, kinds)}


def is_projection(path: str) -> bool:
    """Whether a layer is one of attention's."""
    return path.rpartition("/")[2] in PROJECTIONS


def not_last(path: str) -> bool:
    """All but the GPT's logits."""
    return not path.endswith("/dense_6")


def every(path: str) -> bool:
    """All layers."""
    return True


def in_bfloat16(model: keras.Model) -> None:
    """No product in FP8."""
    tfmp.convert(model, "mixed_bfloat16")


def by(recipe: Any, chosen: Callable[[str], bool] = every) -> Row:
    """Some layers in FP8 by a recipe of tfmp."""

    def row(model: keras.Model) -> None:
        low = tfmp.Policy("mixed_float8", recipe)
        paths = [path for path in products(model) if chosen(path)]
        choice = tfmp.PrecisionMap(dict.fromkeys(paths, low), "mixed_bfloat16")
        tfmp.convert(model, choice, filter="all")

    return row


def like(how: Arithmetic, chosen: Callable[[str], bool] = every) -> Row:
    """Some layers in another library's arithmetic, convolutions never."""

    def row(model: keras.Model) -> None:
        in_bfloat16(model)
        for path, layer in products(model).items():
            if isinstance(layer, DENSE) and chosen(path):
                peers.become(layer, how)

    return row


def in_keras_float8(model: keras.Model) -> None:
    """All layers by Keras' own `quantize`."""
    in_bfloat16(model)
    for layer in products(model).values():
        if isinstance(layer, DENSE):
            layer.quantize("float8")


FORWARD = Arithmetic(backward=None, grads=None)
GPT = choice_workloads.TASKS["gpt"]
TASKS = {
    **choice_workloads.TASKS,
    "gpt-256": GPT._replace(make=lambda: choice_workloads.gpt(width=256)),
    "gpt-512": GPT._replace(make=lambda: choice_workloads.gpt(width=512)),
    "bert": masked_bytes.TASK,
}
ROWS: dict[str, Row] = {
    BASE: in_bfloat16,
    "delayed": by("delayed"),
    "current": by("current"),
    "projections' outputs in bfloat16": by(PRESET),
    "and the last layer": by(PRESET, not_last),
    "all outputs in bfloat16": by(OUTPUTS),
    "all outputs in bfloat16, E4M3": by("delayed_e4m3_high_precision_output"),
    "all outputs and the last layer in bfloat16": by(OUTPUTS, not_last),
    "all but projections": by("delayed", lambda path: not is_projection(path)),
    "projections alone": by("delayed", is_projection),
    KERAS: in_keras_float8,
    "torchao tensorwise": like(peers.TENSORWISE),
    "torchao rowwise": like(peers.ROWWISE),
    "tensorwise, powers of two": like(Arithmetic(powers=True)),
    "tensorwise, forwards": like(FORWARD),
    "tensorwise, backwards": like(Arithmetic(None, None)),
}


def rate_of(task: Task, steps: int) -> Any:
    """Rises for a tenth of the steps, and falls to zero."""
    warmup = steps // 10
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=task.rate, warmup_steps=warmup
    )


def trained(row: str, task: Task, split: Split, seed: int) -> float:
    """Trains a model to the end; returns its loss on what it has not seen."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = task.make()
    ROWS[row](model)
    steps = task.epochs * -(-len(split.train[0]) // task.batch)
    optimizer = keras.optimizers.Adam(rate_of(task, steps))
    if row != KERAS:
        optimizer = tfmp.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=1.0, dynamic=False
        )
    model.compile(optimizer, task.loss, jit_compile=row != KERAS)
    keras.utils.set_random_seed(seed)  # of the order of batches
    model.fit(*split.train, task.batch, task.epochs, verbose=0)
    return float(model.evaluate(*split.test, task.batch, verbose=0))


def part(split: Split, size: int) -> Split:
    """Returns one of `size` parts of the data to train on."""
    return Split(tuple(each[::size] for each in split.train), split.test)


def costs(losses: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Returns what each row costs, in percent of bfloat16's loss.

    Args:
        losses: by row, then by seed.
    """
    found = []
    for row, own in losses.items() if BASE in losses else ():
        seeds = [seed for seed in own if seed in losses[BASE]]
        each = [100 * (own[s] / losses[BASE][s] - 1) for s in seeds]
        error = np.std(each, ddof=1) / len(each) ** 0.5 if each[1:] else np.nan
        found.append(
            {
                **{"row": row, "seeds": len(seeds)},
                "loss": float(np.mean([own[s] for s in seeds])),
                **{"cost": float(np.mean(each)), "error": float(error)},
            }
        )
    return found


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table that is printed."""
    numbers = f"{row['loss']:.4f}", f"{row['cost']:+.2f} %"
    return [row["row"], str(row["seeds"]), *numbers, f"{row['error']:.2f}"]


def arguments() -> Any:
    """The command line."""
    parser = measuring.parser(__doc__, 5)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument(
        "--workloads", nargs="+", choices=TASKS, default=["gpt"]
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--part", type=int, default=1, help="of the data, 1 of")
    return parser.parse_args()


def main() -> None:
    """Trains what has not been trained, and prints the table."""
    args = arguments()
    path = pathlib.Path(args.out) if args.out else None
    found = json.loads(path.read_text()) if path and path.exists() else {}
    for name in args.workloads:
        task = TASKS[name]
        split = part(task.data(args.data), args.part)
        of_part = found.setdefault("losses", {}).setdefault(
            f"{name}, 1 of {args.part}", {}
        )
        for seed in map(str, range(args.rounds)):
            for row in args.rows:
                own = of_part.setdefault(row, {})
                if seed in own:
                    continue
                start = time.perf_counter()
                own[seed] = trained(row, task, split, int(seed))
                took = f"{time.perf_counter() - start:.0f} s"
                print(name, seed, row, f"{own[seed]:.5f}", took, flush=True)
                measuring.write(args.out, found)
        print("\n".join(tables.lines([HEADS, *map(cells, costs(of_part))])))


if __name__ == "__main__":
    main()
