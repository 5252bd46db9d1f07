"""Retrieval: two networks learn which text belongs to which sound.

As CLIP does it for pictures and captions (arXiv 2103.00020): one network makes
a vector of a telephone prompt, another one of its text, and of all pairs of a
batch those that belong together should have the largest cosine.  The loss is
the cross-entropy in both directions, of cosines times a scale, which is learned
as a logarithm and is at most 100.

Between -100 and 100 bfloat16 has steps of up to 0.5, as coarse as what is to be
told apart: cosines, scale and loss are in float32 in every policy.

The metric is recall@1: for how many sounds to validate the nearest of all texts
to validate is its own.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from examples import prompts
from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import Size

# Languages, and seconds of the longest prompt.
SIZES = {
    Size.SMOKE: (("it", "es"), 1.0),
    Size.USUAL: (("it", "es"), 2.0),
    Size.FULL: (tuple(prompts.VOICES), 6.0),
}
CHARACTERS = {x: at for at, x in enumerate(prompts.CHARACTERS, 1)}
WIDTH, DIMENSIONS, TEMPERATURE, LARGEST = 80, 128, 0.07, 100.0


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Log-mel spectra and characters; as labels, which is the row's text."""
    languages, seconds = SIZES[size]
    length = int(100 * seconds)
    pairs = prompts.heard(prompts.read(data_dir, languages), length)
    texts = [characters(prompt.text) for prompt, _ in pairs]
    inputs = (
        prompts.filled([x for _, x in pairs], length),
        prompts.filled(texts, max(map(len, texts))),
    )
    later = np.array([prompt.to_validate for prompt, _ in pairs])
    return Data(
        *(
            (tuple(x[part] for x in inputs), np.flatnonzero(part))
            for part in (~later, later)
        )
    )


def characters(text: str) -> np.ndarray:
    return np.array([CHARACTERS[x] for x in text], "int32")


@keras.saving.register_keras_serializable("examples")
class Similarity(layers.Layer):
    """Cosines of all first and all second vectors of a batch, times a scale."""

    def build(self, *shapes: Any) -> None:
        start = keras.initializers.Constant(-math.log(TEMPERATURE))
        self.log_scale = self.add_weight(name="log_scale", initializer=start)

    def call(self, first: Any, second: Any) -> Any:
        scale = ops.exp(ops.minimum(self.log_scale, math.log(LARGEST)))
        both = (ops.normalize(first), ops.normalize(second))
        return scale * ops.matmul(both[0], ops.transpose(both[1]))


class SymmetricCrossEntropy(keras.losses.Loss):
    """Row by row and column by column the diagonal is right."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        right = ops.arange(ops.shape(y_pred)[0])
        rows, columns = (
            ops.sparse_categorical_crossentropy(right, x, from_logits=True)
            for x in (y_pred, ops.transpose(y_pred))
        )
        return (rows + columns) / 2


def model(data: Data) -> keras.Model:
    """A network for each side; what compares them stays in float32."""
    sounds, texts = data.train[0]
    heard = keras.Input(sounds.shape[1:], name="sound")
    read = keras.Input(texts.shape[1:], dtype="int32", name="text")
    x = normalized(normalized(heard, 5, 2), 5, 2)
    y = layers.Embedding(1 + len(CHARACTERS), WIDTH)(read)
    similarity = Similarity(name="similarity", dtype="float32")
    logits = similarity(encoded(x), encoded(y))
    return keras.Model((heard, read), logits, name="retrieval")


def encoded(x: Any) -> Any:
    """What occurs anywhere, found by convolutions, as one vector."""
    for _ in range(2):
        x = layers.add([x, normalized(x, 7)])
    x = normalized(x, 5)
    x = layers.Dropout(0.2)(layers.GlobalMaxPooling1D()(x))
    return layers.Dense(DIMENSIONS)(x)


def normalized(x: Any, size: int, strides: int = 1) -> Any:
    """A convolution over time, BatchNorm and ReLU."""
    x = layers.Conv1D(WIDTH, size, strides, "same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def recall(logits: np.ndarray) -> float:
    """For how many rows the largest is that of the diagonal."""
    best = np.argmax(logits, axis=1)
    return float(np.mean(best == np.arange(len(best))))


def scores(model: keras.Model, data: Data) -> np.ndarray:
    """Of all sounds and all texts to validate, in one batch."""
    return model.predict_on_batch(data.validation[0])


def measure(model: keras.Model, data: Data) -> float:
    """Recall@1 of texts, given a sound."""
    return recall(scores(model, data))


def afterwards(model: keras.Model, data: Data) -> dict[str, Any]:
    """The other direction, among how many that was, and the scale."""
    found = scores(model, data)
    scale = np.exp(model.get_layer("similarity").log_scale)
    return {
        "recall@1 of sounds, %": 100 * recall(found.T),
        "among": float(len(found)),
        "scale": float(min(scale, LARGEST)),
    }


EXAMPLE = Example(
    name="retrieval",
    field="speech and text",
    says="two encoders, trained by contrast, find the text of a sound",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(2e-3, steps), weight_decay=1e-2
    ),
    loss=SymmetricCrossEntropy,
    metric=Metric("recall@1", factor=100, unit="%", measure=measure),
    epochs=6,
    batch_size=64,
    passes=6,
    afterwards=afterwards,
)
