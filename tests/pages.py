"""The pages of the project: where they are, and what is in them."""

from __future__ import annotations

import pathlib
import re
from typing import NamedTuple

import numpy as np
from matplotlib import image

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "RELIABILITY.md",
    *(
        path.relative_to(ROOT).as_posix()
        for folder in ("reference", "internals")
        for path in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
]
GUIDES = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/guides/*.md")
)
IMAGES = ROOT / "docs" / "images"
LINK = re.compile(r"\]\(([^()#:]+)(?:#[\w-]+)?\)")  # to a file


class Block(NamedTuple):
    """One fenced block of a page."""

    line: int
    language: str
    mark: str
    text: str


def blocks(page: str) -> list[Block]:
    """Returns the fenced blocks of a page's text."""
    found = []
    fence = r"^(?:<!-- ([\w-]+) -->\n)?```([\w{}-]*).*?\n(.*?)^```$"
    for match in re.finditer(fence, page, re.MULTILINE | re.DOTALL):
        mark, language, text = match.groups()
        line = page.count("\n", 0, match.start(3)) + 1
        found.append(Block(line, language, mark or "", text))
    return found


def read(name: str) -> str:
    """Returns a page's text, empty if there is no such page."""
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def dead_links(page: str, folder: pathlib.Path) -> list[str]:
    """Returns the links of a page to files that are not there."""
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return [to for to in LINK.findall(page) if not (folder / to).exists()]


def looks_like(drawn: pathlib.Path, made: pathlib.Path) -> bool:
    """Whether two pictures are alike, but for a plotting library's changes."""
    pixels = [image.imread(path)[..., :3] for path in (drawn, made)]
    if np.abs(np.subtract(*[p.shape for p in pixels])).max() > 20:
        return False
    height, width = np.minimum(*[p.shape[:2] for p in pixels])
    first, second = (p[:height, :width] for p in pixels)
    return bool(np.abs(first - second).mean() < 0.03)
