"""Trains the GPT of the language example by constant scales, with unit scaling.

    python benchmarks/unit_scaling.py --out benchmarks/results/unit_scaling.json

Against it stand the example's own model in bfloat16 and in FP8 with delayed
scaling: same data, same order, same sizes, same number of steps.  Models with
unit scaling have their residual branches normalized at the end, as in arXiv
2502.05967, and one learning rate for all widths.
"""

from __future__ import annotations

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import tensorflow as tf

import tfmp
from examples import language
from examples.harness.example import Data, cosine
from examples.harness.settings import DOWNLOADS, Size
from tfmp import unit_scaling

RATE = 0.5
DECAY = 6e-4  # of a weight in a step, as in the example
WAYS = {
    "mixed_bfloat16": "mixed_bfloat16",
    "mixed_float8:delayed": "mixed_float8:delayed",
    "unit scaling, float32": "float32",
    "unit scaling, mixed_float8:static": "mixed_float8:static",
}


def model(policy: str, width: int = language.WIDTH) -> keras.Model:
    """The GPT of the example with unit scaling."""
    depth, length = 2 * language.DEPTH, language.CONTEXT
    with tfmp.policy_scope(policy):
        tokens = keras.Input([length], dtype="int32")
        x = unit_scaling.Embedding(language.BYTES, width)(tokens)
        places = unit_scaling.Embedding(length, width)
        x = unit_scaling.ResidualAdd()([x, places(tf.range(length)[None])])
        for index in range(depth):
            tau = unit_scaling.residual_tau(index, depth)
            y, skip = unit_scaling.ResidualSplit(tau)(x)
            y = wide(y, width) if index % 2 else attention(y, width)
            y = keras.layers.LayerNormalization(center=False, scale=False)(y)
            x = unit_scaling.ResidualAdd(tau)([y, skip])
        x = unit_scaling.Dense(language.BYTES, readout=True)(x)
    return keras.Model(tokens, x, name="gpt")


def attention(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
    """Causal attention with heads as wide as the example's."""
    size = language.WIDTH // language.HEADS
    layer = unit_scaling.MultiHeadAttention(width // size, size)
    return layer(x, x, use_causal_mask=True)


def wide(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
    """Two wide layers."""
    x = unit_scaling.Dense(4 * width, "gelu")(x)
    return unit_scaling.Dense(width)(x)


def compiled(way: str, data: Data, steps: int, rate: float) -> keras.Model:
    """Returns the model of a way to train, and its optimizer."""
    if way.startswith("unit scaling"):
        found = model(WAYS[way])
        found.compile(
            unit_scaling.AdamW(
                cosine(rate, steps, 0.1),
                depth=2 * language.DEPTH,
                weight_decay=DECAY / rate,
                beta_2=0.99,
            ),
            unit_scaling.SparseCategoricalCrossentropy(),
            metrics=[language.EXAMPLE.metric.make()],
            jit_compile=True,
        )
        return found
    example = language.EXAMPLE
    found, optimizer = example.model(data), example.optimizer(steps)
    tfmp.convert(found, WAYS[way], "all")
    if "float8" in WAYS[way]:
        optimizer = tfmp.optimizers.LossScaleOptimizer(optimizer)
    found.compile(
        optimizer,
        example.loss(),
        metrics=[example.metric.make()],
        jit_compile=True,
    )
    return found


def bits(way: str, data: Data, steps: int, rate: float, seed: int) -> float:
    """Returns the bits a byte of the validation data after training."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    found = compiled(way, data, steps, rate)
    batches = Data.batches(data, language.EXAMPLE.batch_size, seed)
    found.fit(batches.repeat().take(steps), epochs=1, verbose=0)
    validation = data.validation_batches(language.EXAMPLE.batch_size)
    values = found.evaluate(validation, return_dict=True, verbose=0)
    name = next(key for key in values if key != "loss")
    return values[name] / math.log(2)


def main() -> None:
    """Trains in turns, and keeps what came out."""
    parser = measuring.parser(__doc__, rounds=1)
    parser.add_argument("ways", nargs="*", default=list(WAYS))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rate", type=float, default=RATE)
    args = parser.parse_args()
    data = language.data(Size.USUAL, DOWNLOADS.expanduser())
    found: dict[str, list[float]] = {}
    for seed in range(args.rounds):
        for way in args.ways:
            value = bits(way, data, args.steps, args.rate, seed)
            found.setdefault(way, []).append(round(value, 4))
            print(f"{way}, seed {seed}: {value:.3f} bits a byte", flush=True)
    results = {"steps": args.steps, "rate": args.rate, "bits a byte": found}
    measuring.write(args.out, results)


if __name__ == "__main__":
    main()
