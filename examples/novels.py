"""Jane Austen's six novels, as R's package janeaustenr has them.

The data come from Debian's package r-cran-janeaustenr, read without R.
"""

from __future__ import annotations

import collections
import pathlib
import re

import numpy as np

from examples.harness import files

NOVELS = (
    "emma",
    "mansfieldpark",
    "northangerabbey",
    "persuasion",
    "prideprejudice",
    "sensesensibility",
)
INNER = "janeaustenr/data/Rdata.rdb"
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[.,;:!?\"-]")
TITLES = ("I", "Mr", "Mrs", "Miss", "Sir", "Oh", "Yes")
# The numbers of words: three for other ends, then names, then all others.
OTHER, UNKNOWN, MASK, FIRST, NAMES, WORDS = 0, 1, 2, 3, 192, 2048
HELD_OUT = 10  # one part in so many, at the end of each novel


def read(data_dir: pathlib.Path) -> list[str]:
    """Returns the text of each novel, in the order of `NOVELS`.

    Raises:
        MissingDataError: if the package, or what reads it, is not there.
    """
    path = files.of_debian(data_dir, "r-cran-janeaustenr", INNER)
    lines = files.lazy_loaded(path)
    return ["\n".join(lines[name]) for name in NOVELS]


def parts(novels: list[str]) -> tuple[list[str], list[str]]:
    """Returns all but the end of each novel to train on, and the ends."""
    ends = [len(text) - len(text) // HELD_OUT for text in novels]
    pairs = list(zip(novels, ends, strict=True))
    return [text[:end] for text, end in pairs], [
        text[end:] for text, end in pairs
    ]


def vocabulary(texts: list[str]) -> dict[str, int]:
    """Numbers the most frequent names, then the most frequent other words.

    A name is hardly ever written without its capital.
    """
    counts = collections.Counter(WORD.findall(" ".join(texts)))
    names, others = [], []
    for word, count in counts.most_common():
        capital = word[0].isupper() and word not in TITLES
        named = capital and count > 3 * counts[word.lower()]
        (names if named else others).append(word)
    found = dict(zip(names, range(FIRST, NAMES), strict=False))
    return found | dict(zip(others, range(NAMES, WORDS), strict=False))


def passages(
    texts: list[str], numbers: dict[str, int], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts texts into passages of numbers, each with that of its text."""
    x, y = [], []
    for novel, text in enumerate(texts):
        words = [numbers.get(word, UNKNOWN) for word in WORD.findall(text)]
        found = np.array(words, "int32")
        whole = found[: len(found) - len(found) % length]
        x.append(whole.reshape(-1, length))
        y += [novel] * len(x[-1])
    return np.concatenate(x), np.array(y)
