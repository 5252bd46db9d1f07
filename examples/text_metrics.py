"""What decoded text is judged by: the character error rate, and chrF."""

from __future__ import annotations

import collections
from collections.abc import Sequence

ORDER, BETA = 6, 2  # of chrF2


def distance(first: Sequence, second: Sequence) -> int:
    """Insertions, deletions and substitutions from one to the other."""
    row = list(range(len(second) + 1))
    for above, x in enumerate(first):
        corner, row[0] = above, above + 1
        for at, y in enumerate(second, 1):
            least = min(row[at], row[at - 1]) + 1
            corner, row[at] = row[at], min(least, corner + (x != y))
    return row[-1]


def error_rate(right: list[Sequence], found: list[Sequence]) -> float:
    """Errors for each token of the right texts, of all texts together."""
    pairs = zip(right, found, strict=True)
    errors = sum(distance(x, y) for x, y in pairs)
    return errors / sum(map(len, right))


def pieces(text: str, length: int) -> collections.Counter[str]:
    """Counts the pieces of a length; chrF takes no spaces."""
    text = "".join(text.split())
    starts = range(len(text) - length + 1)
    return collections.Counter(text[at : at + length] for at in starts)


def chrf(right: list[str], found: list[str]) -> float:
    """chrF2 of all texts together, from 0 to 1 (Popović, 2015).

    Precision and recall of character n-grams are means over n = 1 ... 6, of
    those n that both sides have; in their F-score recall counts twice.
    """
    shares = []
    for length in range(1, ORDER + 1):
        pairs = [
            (pieces(a, length), pieces(b, length))
            for a, b in zip(right, found, strict=True)
        ]
        wanted = sum(a.total() for a, _ in pairs)
        given = sum(b.total() for _, b in pairs)
        if wanted and given:
            both = sum((a & b).total() for a, b in pairs)
            shares.append((both / given, both / wanted))
    if not shares or not any(map(any, shares)):
        return 0.0
    precision, recall = (sum(x) / len(x) for x in zip(*shares, strict=True))
    square = BETA**2
    return (1 + square) * precision * recall / (square * precision + recall)
