"""Tables: a deep network with embeddings tells handwritten letters apart.

The table is UCI's Letter Recognition (Frey and Slate, 1991): 20,000 letters,
26 classes, and of each sixteen integers from 0 to 15, such as its width, its
height, and moments of its ink; as usual the last 4,000 rows are to validate.
An integer from 0 to 15 is a number and a category: it goes in both ways,
through a Normalization layer that is part of the model and adapts to the data,
and through an embedding of its own (entity embeddings, arXiv 1604.06737).

The data come from Debian's package r-cran-mlbench, read without R.
"""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
from keras import layers

from examples.harness import files
from examples.harness.example import Data, Example, Metric, cosine, one_hot
from examples.harness.settings import Size

CLASSES, LEVELS, VALIDATION, SMOKE = 26, 16, 4000, 512
DIMENSIONS, WIDTH, DEPTH = 8, 512, 3


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Sixteen integers and a letter a row; of `--smoke` the first few rows."""
    x, y = read(data_dir)
    end = SMOKE if size is Size.SMOKE else -VALIDATION
    return Data(
        (x[:end], one_hot(y[:end], CLASSES)),
        (x[-VALIDATION:], one_hot(y[-VALIDATION:], CLASSES)),
    )


def read(data_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns integers [n, 16] and classes [n].

    Raises:
        MissingDataError: if the package, or what reads it, is not there.
    """
    path = files.of_debian(
        data_dir, "r-cran-mlbench", "mlbench/data/LetterRecognition.rda"
    )
    content = files.rdata().read_rda(path, default_encoding="utf-8")
    frame = content["LetterRecognition"]
    letters = frame.pop("lettr")
    return frame.to_numpy("int32"), letters.cat.codes.to_numpy("int64")


def model(data: Data) -> keras.Model:
    """Numbers and embedded categories, then wide layers."""
    integers = data.train[0]
    start = keras.Input(integers.shape[1:], dtype="int32")
    scaled = layers.Normalization(name="normalization")
    scaled.adapt(integers.astype("float32"))
    parts = [scaled(keras.ops.cast(start, "float32")), embedded(start)]
    x = layers.concatenate(parts)
    for _ in range(DEPTH):
        x = layers.Dense(WIDTH, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Dropout(0.2)(x)
    return keras.Model(start, layers.Dense(CLASSES)(x), name="tables")


def embedded(integers: Any) -> Any:
    """An embedding for each column: one table, in which each has its rows."""
    columns = integers.shape[-1]
    rows = integers + LEVELS * keras.ops.arange(columns, dtype="int32")
    x = layers.Embedding(columns * LEVELS, DIMENSIONS)(rows)
    return layers.Flatten()(x)


def afterwards(model: keras.Model, data: Data) -> dict[str, Any]:
    """The area under the ROC curve, class by class against the others."""
    x, y = data.validation
    logits = model.predict(x, batch_size=1000, verbose=0)
    scores = keras.ops.softmax(logits.astype("float32"))
    auc = keras.metrics.AUC(1000, multi_label=True, num_labels=CLASSES)
    auc.update_state(y, scores)
    return {"AUC": float(auc.result())}


EXAMPLE = Example(
    name="tables",
    field="tables",
    says="a deep network with embeddings on UCI's letters",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(2e-3, steps), weight_decay=1e-2
    ),
    loss=lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    metric=Metric("accuracy", keras.metrics.CategoricalAccuracy, 100, "%"),
    epochs=15,
    batch_size=256,
    afterwards=afterwards,
)
