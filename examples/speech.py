"""Speech: a network of convolutions writes down what it hears.

It gives a character, or a blank, for every 40 ms of a telephone prompt, as that
of arXiv 1609.03193, and is trained by CTC (Graves et al., 2006), which needs no
times of the characters.  What is most likely in each frame is read without
repetitions and blanks.  Each text begins with a token of its language (Watanabe
et al., 2017), so that the network says that too.  Gradients are clipped: at the
start all frames learn to be blank, and without a limit some seeds stay there.

The metric is the character error rate: insertions, deletions and substitutions
of characters, for each character of the right text.  As usual there is Italian,
which is written as it is spoken; with `--full` there are all five languages and
longer prompts.  That is few minutes of sound, each language in one voice, and
prompts that resemble one another.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import keras
import numpy as np
from keras import layers

from examples import prompts
from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import Size
from examples.text_metrics import error_rate

# Languages, and seconds of the longest prompt.
SIZES = {
    Size.SMOKE: (("it", "es"), 1.0),
    Size.USUAL: (("it",), 2.5),
    Size.FULL: (tuple(prompts.VOICES), 6.0),
}
WIDTH, BLOCKS, SUBSAMPLING = 80, 2, 4
# Tokens: 0 is CTC's blank, and the padding of a label.
LANGUAGES = {name: at for at, name in enumerate(prompts.VOICES, 1)}
TOKENS = {x: at for at, x in enumerate(prompts.CHARACTERS, 1 + len(LANGUAGES))}
CLASSES = 1 + len(LANGUAGES) + len(TOKENS)


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Log-mel spectra [n, frames, bands], and tokens [n, characters]."""
    languages, seconds = SIZES[size]
    length = int(100 * seconds)
    heard = prompts.heard(prompts.read(data_dir, languages), length)
    kept = [(p, x) for p, x in heard if fits(p.text, len(x))]
    x = prompts.filled([x for _, x in kept], length)
    labels = [tokens(prompt) for prompt, _ in kept]
    y = prompts.filled(labels, max(map(len, labels)))
    later = np.array([p.to_validate for p, _ in kept])
    return Data((x[~later], y[~later]), (x[later], y[later]))


def fits(text: str, frames: int) -> bool:
    """Whether CTC can write a text into the frames of its sound.

    It needs one for each token, and a blank between two that are alike.
    """
    alike = sum(a == b for a, b in itertools.pairwise(text))
    return 1 + len(text) + alike <= frames // SUBSAMPLING


def tokens(prompt: prompts.Prompt) -> np.ndarray:
    """The language, then the characters."""
    return np.array(
        [LANGUAGES[prompt.language], *(TOKENS[x] for x in prompt.text)], "int32"
    )


def model(data: Data) -> keras.Model:
    """Convolutions that halve the frames twice, others, and dense layers."""
    start = x = keras.Input(data.train[0].shape[1:])
    for _ in range(2):
        x = layers.Activation("silu")(convolved(x, 5, 2))
    for _ in range(BLOCKS):
        y = layers.Dropout(0.2)(layers.Activation("silu")(convolved(x, 7)))
        x = layers.add([x, convolved(y, 7)])
    y = layers.Dense(4 * WIDTH, "gelu")(layers.LayerNormalization()(x))
    x = layers.add([x, layers.Dropout(0.2)(layers.Dense(WIDTH)(y))])
    x = layers.Dense(CLASSES)(x)
    return keras.Model(start, x, name="speech")


def convolved(x: Any, size: int, strides: int = 1) -> Any:
    """A convolution over time and BatchNorm."""
    x = layers.Conv1D(WIDTH, size, strides, "same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def greedy(logits: np.ndarray) -> list[list[int]]:
    """Returns the most likely tokens [n, frames] as CTC reads them."""
    rows = np.argmax(logits, axis=-1)
    new = np.diff(rows, axis=1, prepend=0) != 0
    kept = new & (rows > 0)
    return [x[k].tolist() for x, k in zip(rows, kept, strict=True)]


def read(tokens: list[int]) -> tuple[int, list[int]]:
    """Returns the first language, 0 if there is none, and all characters."""
    said = [token for token in tokens if token in LANGUAGES.values()]
    return (said or [0])[0], [x for x in tokens if x > len(LANGUAGES)]


def results(model: keras.Model, data: Data) -> tuple[list[Any], list[Any]]:
    """Language and characters of the validation data, right and as heard."""
    x, y = data.validation
    logits = model.predict(x, batch_size=len(x), verbose=0)
    right = [row[row > 0].tolist() for row in y]
    return [read(row) for row in right], [read(row) for row in greedy(logits)]


def measure(model: keras.Model, data: Data) -> float:
    """The character error rate."""
    right, found = results(model, data)
    return error_rate([x for _, x in right], [x for _, x in found])


def afterwards(model: keras.Model, data: Data) -> dict[str, Any]:
    """The share of prompts whose language is right; a few texts to read."""
    right, found = results(model, data)
    agree = [a[0] == b[0] for a, b in zip(right, found, strict=True)]
    names = {at: x for x, at in TOKENS.items()}
    lines = [
        f"{''.join(names[x] for x in a[1])} | {''.join(names[x] for x in b[1])}"
        for a, b in zip(right, found, strict=True)
    ]
    step = max(1, len(lines) // 8)
    return {
        "language": float(np.mean(agree)),
        "right | heard": "\n".join(lines[::step]),
    }


EXAMPLE = Example(
    name="speech",
    field="speech",
    says="convolutions, trained by CTC, on telephone prompts",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(2e-3, steps, 0.1), weight_decay=1e-2, global_clipnorm=5.0
    ),
    loss=keras.losses.CTC,
    metric=Metric(
        "CER", factor=100, unit="%", higher_is_better=False, measure=measure
    ),
    epochs=6,
    batch_size=16,
    passes=3,
    afterwards=afterwards,
)
