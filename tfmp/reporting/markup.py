"""HTML from Python: whatever is not HTML already is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = ("img", "meta")


class Html(str):
    """A text that is HTML, and not to be escaped."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Html:
    """Returns an element; `class_` is the attribute `class`.

    >>> element("p", "a < b", element("b", "!"), class_="note")
    '<p class="note">a &lt; b<b>!</b></p>'
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
    )
    if tag in VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{joined(children)}</{tag}>")


def joined(parts: Iterable[str]) -> Html:
    """Returns the parts one after another."""
    return Html(
        "".join(p if isinstance(p, Html) else html.escape(p) for p in parts)
    )


def table(
    caption: str, titles: Iterable[str], rows: Iterable[Iterable[str]]
) -> Html:
    """Returns a table whose first column names the rows; it scrolls alone."""
    head = element("tr", *(element("th", t, scope="col") for t in titles))
    body = [
        element(
            "tr",
            *(
                element("td", cell) if at else element("th", cell, scope="row")
                for at, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *body),
    )
    return element("div", whole, class_="scroll", tabindex="0")
