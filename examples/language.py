"""Language: a GPT learns Jane Austen's novels, byte by byte.

A decoder as in GPT-2 (Radford et al., 2019), small: learned places, blocks
that normalize first, causal attention, an output layer of its own.  A token is
a byte of the text, and a byte is predicted from at most the 63 before it; the
end of each novel is to validate.  To compare: the counted frequencies of bytes
alone need 4.46 bits a byte there, those after one byte 3.53, after two 2.75.

Afterwards the model writes: byte after byte, with the keys and values of all
bytes before in a cache, so that a byte costs one token's products.

The data come from Debian's package r-cran-janeaustenr, read without R.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from examples import novels
from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import Size
from examples.transformer import Block, Tokens

BYTES, CONTEXT = 256, 64
WIDTH, HEADS, DEPTH = 64, 4, 2
STEPS, VALIDATION, SMOKE = 400, 512, 64
PROMPTS = ("It is a truth universally", "She was the youngest", "Mr. Darcy ")
TEMPERATURE = 0.7

Choice = Callable[[np.ndarray], np.ndarray]


class Sampled(Data):
    """Data of which an epoch is a sample, another one each time."""

    def batches(self, batch_size: int, seed: int) -> tf.data.Dataset:
        """A share of the batches, in an order that only the seed decides."""
        return super().batches(batch_size, seed).take(STEPS)


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Windows of bytes, int32 [n, 64], and for each the byte that follows."""
    train, validation = map(windows, novels.parts(novels.read(data_dir)))
    validation = validation[:: max(1, len(validation) // VALIDATION)]
    if size is Size.SMOKE:
        train, validation = train[:SMOKE], validation[:SMOKE]
    parts = [(each[:, :-1], each[:, 1:]) for each in (train, validation)]
    return Data(*parts) if size is Size.FULL else Sampled(*parts)


def windows(texts: list[str]) -> np.ndarray:
    """Cuts texts into windows of bytes, int32 [n, 65]."""
    found = []
    for text in texts:
        content = np.frombuffer(text.encode(), "uint8")
        whole = content[: len(content) - len(content) % (CONTEXT + 1)]
        found.append(whole.reshape(-1, CONTEXT + 1))
    return np.concatenate(found).astype("int32")


def model(data: Data) -> keras.Model:
    """Tokens, blocks, and a score for each byte that could follow."""
    start = keras.Input([CONTEXT], dtype="int32")
    x = Tokens(BYTES, CONTEXT, WIDTH)(start)
    for at in range(DEPTH):
        x = Block(WIDTH, HEADS, causal=True, name=f"block_{at}")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(start, layers.Dense(BYTES, name="logits")(x), name="gpt")


def with_cache(model: keras.Model) -> Choice:
    """Returns what gives the scores of the next bytes from the latest only.

    It is to be called on texts [texts, length] that grow from one byte on, a
    byte each time.
    """
    tokens, *blocks, norm, logits = model.layers[1:]
    caches: list[Any] = []

    @tf.function
    def step(latest: Any, at: Any, caches: list[Any]) -> tuple[Any, list[Any]]:
        x, kept = tokens(latest, at), []
        for block, cache in zip(blocks, caches, strict=True):
            x, cache = block.step(x, cache, at)
            kept.append(cache)
        return tf.cast(logits(norm(x))[:, 0], tf.float32), kept

    def following(text: np.ndarray) -> np.ndarray:
        nonlocal caches
        texts, length = text.shape
        if length == 1:
            caches = [block.cache(texts, CONTEXT) for block in blocks]
        scores, caches = step(text[:, -1:], tf.constant(length - 1), caches)
        return scores.numpy()

    return following


def without_cache(model: keras.Model) -> Choice:
    """Returns what gives the scores of the next bytes from all before."""

    def following(text: np.ndarray) -> np.ndarray:
        end = text.shape[1]
        padded = np.pad(text, [(0, 0), (0, CONTEXT - end)])
        return model.predict_on_batch(padded)[:, end - 1].astype("float32")

    return following


def greedy(scores: np.ndarray) -> np.ndarray:
    """The most likely bytes."""
    return scores.argmax(axis=-1)


def sampler(seed: int, temperature: float = TEMPERATURE) -> Choice:
    """Returns what draws bytes as likely as they are, by Gumbel's maximum."""
    random = np.random.default_rng(seed)
    return lambda scores: greedy(
        scores / temperature + random.gumbel(size=scores.shape)
    )


def generate(following: Choice, prompt: bytes, choose: Choice) -> np.ndarray:
    """Continues a prompt until the context is full: bytes, int32 [1, 64]."""
    text = np.frombuffer(prompt, "uint8").astype("int32")[None]
    for end in range(1, CONTEXT):
        scores = following(text[:, :end])
        if end == text.shape[1]:
            chosen = choose(scores).astype("int32")
            text = np.concatenate([text, chosen[:, None]], axis=1)
    return text


def afterwards(model: keras.Model, data: Data) -> dict[str, Any]:
    """What the model writes, and whether the cache changes what is likeliest.

    The share is of all places in these texts.
    """
    following, lines, same = with_cache(model), [], []
    for seed, prompt in enumerate(PROMPTS):
        text = generate(following, prompt.encode(), sampler(seed))
        lines.append(repr(bytes(text[0].tolist()).decode(errors="replace")))
        ends = range(1, CONTEXT + 1)
        cached = [greedy(following(text[:, :end])) for end in ends]
        expected = greedy(model.predict_on_batch(text))
        same.append(np.stack(cached, axis=1) == expected)
    return {
        "same with cache, %": 100 * float(np.mean(same)),
        "text": "\n".join(lines),
    }


EXAMPLE = Example(
    name="language",
    field="language",
    says="a small GPT on the bytes of Jane Austen's novels",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(6e-3, steps, 0.1),
        weight_decay=0.1,
        beta_2=0.99,
        global_clipnorm=1.0,
    ),
    loss=lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metric=Metric(
        "loss",
        lambda: keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        1 / math.log(2),
        "bits/byte",
        digits=3,
        higher_is_better=False,
    ),
    epochs=4,
    batch_size=8,
    afterwards=afterwards,
)
