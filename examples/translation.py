"""Translation: a Transformer writes a telephone prompt in another language.

The encoder and decoder of arXiv 1706.03762, with the normalization before each
part (arXiv 2002.04745); characters are its tokens, and each source begins with
the language that is wanted (arXiv 1611.04558).  Beam search finds the text.

The metric is chrF of prompts that it has not seen.  A few hundred sentences are
hardly anything: it learns phrases that many prompts have, and not the language.
Beside it stand two that need no network: the source as it is, and the
translation of the most similar prompt to train on, which is better than what it
writes.  As usual English is translated into Spanish; with `--full` there are
all directions of five languages and longer prompts.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from examples import prompts
from examples.beam_search import END, PADDING, START, search
from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import Size
from examples.text_metrics import chrf, distance

# Languages of sources and of targets, and characters of the longest prompt.
SIZES = {
    Size.SMOKE: (("en",), ("es",), 8),
    Size.USUAL: (("en",), ("es",), 40),
    Size.FULL: (tuple(prompts.VOICES), tuple(prompts.VOICES), 64),
}
# Tokens, behind those of the search.
LANGUAGES = {name: at for at, name in enumerate(prompts.VOICES, 3)}
TOKENS = {x: at for at, x in enumerate(prompts.CHARACTERS, 3 + len(LANGUAGES))}
NAMES = {at: x for x, at in TOKENS.items()}
CLASSES = 3 + len(LANGUAGES) + len(TOKENS)
WIDTH, HEADS, DEPTH, DROPOUT, BEAMS = 128, 4, 1, 0.1, 3


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Inputs: source and target so far [n, tokens]; labels: what comes next."""
    sources, targets, longest = SIZES[size]
    read = prompts.read(data_dir, sorted({*sources, *targets}))
    found = prompts.pairs(read, sources, targets, longest)
    source = [[LANGUAGES[b.language], *tokens(a), END] for a, b in found]
    target = [[START, *tokens(b), END] for _, b in found]
    x, y = (
        prompts.filled([np.array(row, "int32") for row in rows], longest + 2)
        for rows in (source, target)
    )
    later = np.array([prompt.to_validate for prompt, _ in found])
    return Data(
        *(((x[part], y[part, :-1]), y[part, 1:]) for part in (~later, later))
    )


def tokens(prompt: prompts.Prompt) -> list[int]:
    return [TOKENS[x] for x in prompt.text]


def text(tokens: np.ndarray) -> str:
    """The characters until the end."""
    until = itertools.takewhile(lambda token: token != END, tokens.tolist())
    return "".join(NAMES.get(token, "") for token in until)


def texts(rows: np.ndarray) -> list[str]:
    return [text(row) for row in rows]


def model(data: Data) -> keras.Model:
    """An encoder and a decoder, each a model of its own in the whole."""
    (source, target), _ = data.train
    first = keras.Input(source.shape[1:], dtype="int32", name="source")
    second = keras.Input(target.shape[1:], dtype="int32", name="target")
    memory = keras.Input([source.shape[1], WIDTH], name="memory")
    encoder = keras.Model(first, encoded(first), name="encoder")
    decoder = keras.Model(
        (first, memory, second), decoded(first, memory, second), name="decoder"
    )
    logits = decoder((first, encoder(first), second))
    return keras.Model((first, second), logits, name="translation")


def embedded(tokens: Any) -> Any:
    """What stands there, and where."""
    places = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    what = layers.Embedding(CLASSES, WIDTH)(tokens)
    where = layers.Embedding(tokens.shape[1], WIDTH)(places)
    return layers.Dropout(DROPOUT)(layers.add([what, where]))


def encoded(source: Any) -> Any:
    x, mask = embedded(source), (source != PADDING)[:, None]
    for _ in range(DEPTH):
        x = attended(x, None, attention_mask=mask)
        x = transformed(x)
    return layers.LayerNormalization()(x)


def decoded(source: Any, memory: Any, target: Any) -> Any:
    x, mask = embedded(target), (source != PADDING)[:, None]
    for _ in range(DEPTH):
        x = attended(x, None, use_causal_mask=True)
        x = attended(x, memory, attention_mask=mask)
        x = transformed(x)
    return layers.Dense(CLASSES)(layers.LayerNormalization()(x))


def attended(x: Any, memory: Any, **masks: Any) -> Any:
    """Adds what attention finds in the memory, or in `x` itself."""
    y = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
    memory = y if memory is None else memory
    return layers.add([x, attention(y, memory, **masks)])


def transformed(x: Any) -> Any:
    """Adds a feed-forward network."""
    y = layers.Dense(4 * WIDTH, "gelu")(layers.LayerNormalization()(x))
    return layers.add([x, layers.Dropout(DROPOUT)(layers.Dense(WIDTH)(y))])


def translated(
    model: keras.Model, source: np.ndarray, length: int, beams: int = BEAMS
) -> np.ndarray:
    """Tokens that beam search finds for each source, [n, length]."""
    memory = model.get_layer("encoder").predict_on_batch(source)
    given = [np.repeat(x, beams, axis=0) for x in (source, memory)]
    decoder = model.get_layer("decoder")
    return search(
        lambda so_far, at: decoder.predict_on_batch((*given, so_far))[:, at],
        count=len(source),
        length=length,
        beams=beams,
    )


def measure(model: keras.Model, data: Data) -> float:
    """ChrF of the texts that beam search finds."""
    (source, target), right = data.validation
    return chrf(texts(right), texts(translated(model, source, target.shape[1])))


def nearest(data: Data) -> list[str]:
    """For each source the target of the most similar one to train on."""
    (known, _), written = data.train
    sources = [row[row > 0].tolist() for row in known]
    found = []
    for row in data.validation[0][0]:
        apart = [distance(row[row > 0].tolist(), other) for other in sources]
        found.append(text(written[int(np.argmin(apart))]))
    return found


def afterwards(model: keras.Model, data: Data) -> dict[str, Any]:
    """ChrF without a translation, and of the nearest texts; a few to read."""
    (source, target), right = data.validation
    found = translated(model, source, target.shape[1])
    rows = [texts(x) for x in (source, right, found)]
    step = max(1, len(right) // 8)
    lines = list(map(" | ".join, zip(*rows, strict=True)))[::step]
    return {
        "source as it is": 100 * chrf(rows[1], rows[0]),
        "nearest": 100 * chrf(rows[1], nearest(data)),
        "source | right | found": "\n".join(lines),
    }


EXAMPLE = Example(
    name="translation",
    field="language",
    says="a Transformer translates telephone prompts into Spanish",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(2e-3, steps), weight_decay=1e-2
    ),
    loss=lambda: keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=PADDING
    ),
    metric=Metric("chrF", factor=100, measure=measure),
    epochs=3,
    batch_size=16,
    passes=12,
    afterwards=afterwards,
)
