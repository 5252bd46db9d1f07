"""Jane Austen's six novels, as R's package janeaustenr has them.

The data come from Debian's package r-cran-janeaustenr, read without R.
"""

from __future__ import annotations

import pathlib

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
