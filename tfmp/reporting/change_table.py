"""The changes of precision of one run, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from tfmp._support.changes import Change, merged
from tfmp.reporting.markup import Html, element, joined, table

ROWS, NAMED = 100, 20
TITLES = ("step", "epoch", "layers", "from", "to", "reason")


def render(changes: Sequence[Change]) -> Html:
    """Returns a table of changes, the first of them first."""
    rows = merged(changes, NAMED)
    count = f"{len(rows)} changes" if len(rows) > 1 else "One change"
    left_out = len(rows) - ROWS
    more = f"; the last {left_out} are left out" if left_out > 0 else ""
    said = f"{count} while the model trained{more}. Epochs count from 0."
    return joined(
        [
            element("h3", "Changes of precision"),
            element("p", said, class_="faint"),
            table("Changes of precision", TITLES, map(_row, rows[:ROWS])),
        ]
    )


def _row(change: Change) -> tuple[str, ...]:
    where = change.layer, change.before, change.after
    if change.kind == "rollback":
        where = "whole model", "", "back to an earlier state"
    return str(change.step), str(change.epoch), *where, change.reason
