"""Three models and real data, for `precision_choice.py`.

| workload    | model                            | data                      |
|-------------|----------------------------------|---------------------------|
| cnn         | residual blocks of convolutions  | Fashion-MNIST             |
| gpt         | a causal Transformer over bytes  | Python's standard library |
| recommender | embeddings and wide layers       | MovieLens 100K            |

Fashion-MNIST is the subset that comes with the examples.  The text is the
source code of the Python that runs.  MovieLens is in the wheel
`recbole==1.2.1`, which `pip download recbole==1.2.1 --no-deps` gets; nothing of
it is kept here.
"""

from __future__ import annotations

import csv
import io
import pathlib
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import workloads
from keras import layers

sys.path.append(
    str(pathlib.Path(__file__).resolve().parent.parent / "examples")
)

import fashion_mnist_data

RATINGS = "recbole/dataset_example/ml-100k/ml-100k.inter"
BYTES, MODULES = 256, 400
USERS, FILMS = 944, 1683


class Split(NamedTuple):
    """Arrays to train on and to evaluate on."""

    train: tuple[Any, Any]
    test: tuple[Any, Any]


class Task(NamedTuple):
    """A workload.

    Attributes:
        make: builds the model, in float32.
        data: reads the data; takes the folder of what was downloaded.
        loss: what is trained.
        batch: samples a step.
        epochs: until it is trained to the end.
        rate: the learning rate at the start; falls to zero.
    """

    make: Callable[[], keras.Model]
    data: Callable[[pathlib.Path], Split]
    loss: keras.losses.Loss
    batch: int
    epochs: int
    rate: float = 1e-3


def cnn() -> keras.Model:
    """Residual blocks on 28x28 images, 131,000 weights."""
    start = x = keras.Input([28, 28, 1])
    for stage, width in enumerate((16, 32, 64)):
        x = workloads._convolution(x, width, 2 if stage else 1)
        y = layers.ReLU()(workloads._convolution(layers.ReLU()(x), width))
        x = layers.add([x, workloads._convolution(y, width)])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    x = layers.Dense(128, "relu")(x)
    return keras.Model(start, layers.Dense(10)(x), name="cnn")


def gpt(length: int = 64, width: int = 128, depth: int = 3) -> keras.Model:
    """A decoder over bytes."""
    return workloads.transformer(length, width, depth, 4, BYTES, causal=True)


def recommender(width: int = 64) -> keras.Model:
    """Says how much somebody likes a film, of an embedding of each."""
    start = keras.Input([2], dtype="int32")
    user = layers.Embedding(USERS, width)(start[:, 0])
    film = layers.Embedding(FILMS, width)(start[:, 1])
    x = layers.concatenate([user, film, user * film])
    for units in (256, 128, 64):
        x = layers.Dropout(0.3)(layers.Dense(units, "relu")(x))
    return keras.Model(start, layers.Dense(1)(x), name="recommender")


def images(folder: pathlib.Path) -> Split:
    """Fashion-MNIST, the subset."""
    parts = fashion_mnist_data.load(full=False)
    return Split(*((x[..., None].astype("float32") / 255, y) for x, y in parts))


def text(folder: pathlib.Path, length: int = 64) -> Split:
    """Windows of source code; every tenth is to evaluate on."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    files = sorted(library.glob("*.py"))[:MODULES]
    joined = b"".join(path.read_bytes() for path in files)
    tokens = np.frombuffer(joined, np.uint8).astype("int32")
    count = (len(tokens) - 1) // length
    x = tokens[: count * length].reshape(count, length)
    y = tokens[1 : count * length + 1].reshape(count, length)
    held = np.arange(count) % 10 == 0
    return Split((x[~held], y[~held]), (x[held], y[held]))


def ratings(folder: pathlib.Path) -> Split:
    """MovieLens 100K: ratings from 1 to 5; every tenth is to evaluate on."""
    wheel = next(folder.glob("recbole-1.2.1*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        lines = io.StringIO(archive.read(RATINGS).decode())
    rows = list(csv.reader(lines, delimiter="\t"))[1:]
    values = np.array([row[:3] for row in rows], dtype="float32")
    np.random.default_rng(0).shuffle(values)
    x, y = values[:, :2].astype("int32"), values[:, 2:]
    held = np.arange(len(x)) % 10 == 0
    return Split((x[~held], y[~held]), (x[held], y[held]))


_CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TASKS = {
    "cnn": Task(cnn, images, _CLASSES, batch=128, epochs=10),
    "gpt": Task(gpt, text, _CLASSES, batch=64, epochs=1),
    "recommender": Task(
        recommender,
        ratings,
        keras.losses.MeanSquaredError(),
        batch=256,
        epochs=15,
    ),
}
