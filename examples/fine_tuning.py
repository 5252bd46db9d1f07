"""Fine-tuning: BERT learns names in Jane Austen's novels, then which novel.

A small encoder as in arXiv 1810.04805, that normalizes first.  It is pretrained
on all passages of 128 words: half of their names are masked, and are to be
guessed; names only, as in arXiv 2002.08909, for little is learned from the next
"the".  Then it is told of 192 passages which novel they are from.  Those to
validate are from the ends of the novels, where none to train on is from.  The
largest class is 23 % of them.

The pretrained encoder goes through a weights file, and so from any precision to
any other.  The row of a policy is of what was pretrained in it:

    accuracy        fine-tuned in the same policy, all weights
    LoRA            the same, but kernels get factors of rank 4 (arXiv
                    2106.09685), and embeddings and norms stay
    then bfloat16, then float8
                    fine-tuned in that precision, all weights: with the first
                    column all four ways between these two
    not pretrained  as the first, from random weights, in bfloat16
    nats a name     loss of the pretraining; the names' frequencies alone: 4.7

What is masked, the lengths, the rates and the sizes were chosen by the same
ends of the novels: the accuracies compare policies, no more.

The data come from Debian's package r-cran-janeaustenr, read without R.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
from keras import layers

from examples import novels
from examples.harness import training
from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import BASELINE, Settings, Size
from examples.novels import FIRST, MASK, NAMES, OTHER, WORDS
from examples.transformer import Block, Tokens

LENGTH = 128
WIDTH, HEADS, DEPTH, RANK, SPREAD = 64, 4, 1, 4, 0.15
LABELLED, MASKINGS, SMOKE = 192, 2, 64
WAYS = {"mixed_bfloat16": "then bfloat16", "mixed_float8": "then float8"}
COLUMNS = ("LoRA", *WAYS.values(), "not pretrained", "nats a name")


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Passages of words, int32 [n, 128], and the number of their novel."""
    texts = novels.parts(novels.read(data_dir))
    numbers = novels.vocabulary(texts[0])
    train, validation = (
        novels.passages(part, numbers, LENGTH) for part in texts
    )
    order = np.random.default_rng(0).permutation(len(train[0]))
    order = order[:SMOKE] if size is Size.SMOKE else order
    step = 1 if size is Size.FULL else 2
    x, y = validation
    return Data((train[0][order], train[1][order]), (x[::step], y[::step]))


def masked(passages: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks half of the names; returns them too, OTHER where none is."""
    names = (passages >= FIRST) & (passages < NAMES)
    hidden = names & (np.random.default_rng(seed).random(names.shape) < 0.5)
    return np.where(hidden, MASK, passages), np.where(hidden, passages, OTHER)


def encoder() -> keras.Model:
    """Words with places, blocks that see both ways, and a norm."""
    start = keras.Input([LENGTH], dtype="int32")
    x = Tokens(WORDS, LENGTH, WIDTH, SPREAD)(start)
    for at in range(DEPTH):
        x = Block(WIDTH, HEADS, causal=False, name=f"block_{at}")(x)
    return keras.Model(
        start, layers.LayerNormalization(name="norm")(x), name="encoder"
    )


def with_head(below: keras.Model, name: str) -> keras.Model:
    """An encoder, and a score for each name at each place."""
    start = keras.Input([LENGTH], dtype="int32")
    return keras.Model(start, layers.Dense(NAMES)(below(start)), name=name)


def model(data: Data, weights: pathlib.Path | None = None) -> keras.Model:
    """An encoder, perhaps a pretrained one, and a score for each novel."""
    start, below = keras.Input([LENGTH], dtype="int32"), encoder()
    if weights:
        below.load_weights(weights)
    x = layers.GlobalAveragePooling1D()(below(start))
    logits = layers.Dense(len(novels.NOVELS), name="novel")(x)
    return keras.Model(start, logits, name="novels")


def with_lora(data: Data, weights: pathlib.Path) -> keras.Model:
    """The same, of which only factors, biases and the last layer train."""
    adapted = model(data, weights)
    tokens, *blocks, norm = adapted.get_layer("encoder").layers[1:]
    tokens.trainable = norm.trainable = False
    for block in blocks:
        block.enable_lora(RANK)
    return adapted


def train(
    example: Example, policy: str, seed: int, data: Data, settings: Settings
) -> dict[str, Any]:
    """Pretrains in a policy, then fine-tunes in it, and in other ways."""
    (x, y), (later, _) = data
    copies = [masked(x, seed) for seed in range(MASKINGS)]
    hidden = tuple(np.concatenate(parts) for parts in zip(*copies, strict=True))
    unlabelled = Data(hidden, masked(later, seed=0))
    few = Data((x[:LABELLED], y[:LABELLED]), data.validation)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "encoder.weights.h5")
        before = training.train(
            pretraining(path), policy, seed, unlabelled, settings
        )

        def tuned(policy: str, model: Any, weights: Any = path) -> Any:
            own = functools.partial(model, weights=weights)
            stage = dataclasses.replace(example, model=own)
            return training.train(stage, policy, seed, few, settings)

        run = tuned(policy, model)
        more: dict[str, Any] = dict.fromkeys(COLUMNS)
        if policy in WAYS:
            more["LoRA"] = tuned(policy, with_lora)["metric"]
            [other] = WAYS.keys() - {policy}
            more[WAYS[other]] = tuned(other, model)["metric"]
        if policy == BASELINE:
            more["not pretrained"] = tuned(policy, model, None)["metric"]
    more["nats a name"] = before["metric"]
    return {**run, "pretraining": before, "afterwards": more}


def pretraining(weights: pathlib.Path) -> Example:
    """The training before, which leaves the encoder's weights in a file."""

    def keep(model: keras.Model, data: Data) -> dict[str, Any]:
        model.get_layer("encoder").save_weights(weights)
        return {}

    loss = functools.partial(
        keras.losses.SparseCategoricalCrossentropy,
        from_logits=True,
        ignore_class=OTHER,
    )
    return dataclasses.replace(
        EXAMPLE,
        model=lambda data: with_head(encoder(), "masked"),
        optimizer=functools.partial(optimizer, rate=6e-3),
        loss=loss,
        metric=Metric(
            "loss",
            lambda: keras.metrics.MeanMetricWrapper(loss(), name="nats"),
            unit="nats a name",
            higher_is_better=False,
        ),
        epochs=1,
        batch_size=32,
        afterwards=keep,
    )


def optimizer(steps: int, rate: float) -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(
        cosine(rate, steps, 0.1),
        weight_decay=0.01,
        beta_2=0.99,
        global_clipnorm=1.0,
    )


EXAMPLE = Example(
    name="fine_tuning",
    field="language",
    says="a small BERT, pretrained and fine-tuned on Jane Austen's novels",
    data=data,
    model=model,
    optimizer=functools.partial(optimizer, rate=4e-3),
    loss=lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metric=Metric(
        "accuracy", keras.metrics.SparseCategoricalAccuracy, 100, "%"
    ),
    epochs=10,
    batch_size=16,
    train=train,
)
