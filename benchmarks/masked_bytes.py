"""A small BERT, pretrained on masked bytes and fine-tuned to classify.

The text is the source code of the Python that runs, in windows of 64 bytes.
First an encoder fills in bytes that were masked, 15 % of them, in float32 and
for all precisions alike; then, with a new head, it learns which of the sixteen
largest modules a window is from (arXiv 1810.04805, sections 3.1 and 3.2).
"""

from __future__ import annotations

import functools
import pathlib
import sysconfig

import keras
import numpy as np
import workloads
from choice_workloads import BYTES, Split, Task
from keras import layers

LENGTH, WIDTH, DEPTH, HEADS = 64, 128, 3, 4
CLASSES, MASK, SHARE = 16, 0, 0.15


@functools.cache
def passages() -> tuple[np.ndarray, np.ndarray]:
    """Windows of the largest modules, and the number of the module."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_bytes() for path in sorted(library.glob("*.py"))]
    largest = sorted(texts, key=len)[-CLASSES:]
    windows, modules = [], []
    for number, content in enumerate(largest):
        count = len(content) // LENGTH
        tokens = np.frombuffer(content[: count * LENGTH], np.uint8)
        windows.append(tokens.reshape(count, LENGTH).astype("int32"))
        modules.append(np.full(count, number, "int32"))
    return np.concatenate(windows), np.concatenate(modules)


def classified(folder: pathlib.Path) -> Split:
    """Windows and modules; every fifth is to evaluate on.

    Pretrains too, so that it is done before seeds are set.
    """
    pretrained()
    x, y = passages()
    held = np.arange(len(x)) % 5 == 0
    return Split((x[~held], y[~held]), (x[held], y[held]))


def encoder() -> keras.Model:
    """An encoder that says which byte each one is."""
    return workloads.transformer(
        LENGTH, WIDTH, DEPTH, HEADS, BYTES, causal=False
    )


@functools.cache
def pretrained(epochs: int = 2) -> list[np.ndarray]:
    """Returns the weights of an encoder that fills in what was masked."""
    x = np.concatenate([passages()[0]] * epochs)
    keras.utils.set_random_seed(0)
    masked = np.random.default_rng(0).random(x.shape) < SHARE
    model = encoder()
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    given = np.where(masked, MASK, x)
    weights = masked.astype("float32")
    model.fit(given, x, 64, sample_weight=weights, verbose=0)
    return model.get_weights()


def bert() -> keras.Model:
    """The pretrained encoder with a new head."""
    model = encoder()
    model.set_weights(pretrained())
    x = layers.GlobalAveragePooling1D()(model.layers[-2].output)
    return keras.Model(model.input, layers.Dense(CLASSES)(x), name="bert")


TASK = Task(
    bert,
    classified,
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    batch=64,
    epochs=3,
    rate=3e-4,
)
