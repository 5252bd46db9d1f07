"""From the docstrings of the house to what Sphinx reads.

Docstrings are written to be read in an editor: equations are indented, tables
are those of Markdown.  Sphinx wants `::` before the one and a directive for
the other.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

LIST_ITEM = re.compile(r"\s*(-|\d+\.)\s")


def process(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Rewrites the lines of one docstring in place, for autodoc."""
    lines[:] = with_tables(with_literal_blocks(lines))
    if what == "property":
        # A comment, or Napoleon takes "A word" of "A word: more" for a type.
        lines[:0] = ["..", ""]


def with_literal_blocks(lines: list[str]) -> list[str]:
    """Returns the lines with each indented block marked as code.

    A block is what follows an empty line and is indented further than the
    paragraph before it; what continues the item of a list is none.

    >>> with_literal_blocks(["The rule:", "", "    y = x", "", "More."])
    ['The rule:', '', '::', '', '    y = x', '', 'More.']
    """
    result: list[str] = []
    outer, in_list, in_code = 0, False, False
    for empty, group in itertools.groupby(lines, lambda line: not line.strip()):
        paragraph = list(group)
        if not empty and _indent(paragraph[0]) > outer:
            if not in_list and not in_code:
                result += [" " * outer + "::", ""]
            in_code = not in_list
        elif not empty:
            outer, in_code = _indent(paragraph[-1]), False
            in_list = bool(LIST_ITEM.match(paragraph[0]))
        result += paragraph
    return result


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def with_tables(lines: list[str]) -> list[str]:
    """Returns the lines with Markdown's tables as `list-table` directives.

    >>> for line in with_tables(["| a | b |", "|---|---|", "| 1 | 2 |"]):
    ...     print(line)
    .. list-table::
       :header-rows: 1
    <BLANKLINE>
       * - a
         - b
       * - 1
         - 2
    <BLANKLINE>
    """
    result: list[str] = []
    for is_table, group in itertools.groupby(
        lines, key=lambda line: line.lstrip().startswith("|")
    ):
        same = list(group)
        result += _table(same) if is_table else same
    return result


def _table(rows: list[str]) -> list[str]:
    margin = " " * _indent(rows[0])
    result = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows[:1] + rows[2:]:
        first, *others = [cell.strip() for cell in row.strip()[1:-1].split("|")]
        result += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    return [f"{margin}{line}".rstrip() for line in [*result, ""]]
