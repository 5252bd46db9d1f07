"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a line a row, its cells left-justified in columns.

    >>> lines([("layer", "share"), ("dense_1", "9 %")])
    ['layer    share', 'dense_1  9 %']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
