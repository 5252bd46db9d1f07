"""How figures look here, and their PNG files.

No `pyplot` and no `rcParams`: nothing of a program's own figures changes.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Sequence
from typing import Any

DPI = 160
TEXT, FAINT, GRID = "#1f2933", "#52606d", "#d9e2ec"
RUNS = ("#1f5fbf", "#c2410c", "#0f766e", "#7c3aed", "#b45309", "#be185d")
RUN_STYLES = ("-", "--", "-.", ":")
NORMAL, SUBNORMAL, LOST = "#2f6fc4", "#e0a100", "#c62828"


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture, and what stands with it.

    Attributes:
        name: of its file, without the suffix.
        png: the file.
        alt: what it shows, for who cannot see it.
        caption: what to know to read it.
    """

    name: str
    png: bytes
    alt: str
    caption: str


def library(module: str = "") -> Any:
    """Returns matplotlib, or one of its modules.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module(f"matplotlib.{module}".rstrip("."))
    except ImportError as error:
        raise ImportError(
            "a report needs the package matplotlib: pip install 'tfmp[report]'"
        ) from error


def figure(width: float, height: float) -> Any:
    """Returns an empty figure; sizes are in inches."""
    made = library("figure").Figure(figsize=(width, height), dpi=DPI)
    made.set_layout_engine("constrained")
    return made


def png(figure: Any) -> bytes:
    """Returns a figure as the bytes of a PNG file."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=DPI, facecolor="white")
    return target.getvalue()


def tidy(axes: Any, title: str = "") -> None:
    """Gives axes the look they have here."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelcolor=TEXT, labelsize=8)
    axes.grid(True, axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(
            plain(title), loc="left", fontsize=9, color=TEXT, weight="bold"
        )


def plain(text: str) -> str:
    r"""Returns a text that matplotlib shows as it is, dollars too.

    >>> plain("a$b")
    'a\\$b'
    """
    return text.replace("$", r"\$")


def shortened(text: str, most: int) -> str:
    """Returns a text without its middle if it is too long.

    >>> shortened("model/block_12/attention/query", 16)
    'model/b…on/query'
    """
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - tail - 1]}…{text[-tail:]}"


def without_common(paths: Sequence[str]) -> list[str]:
    """Returns paths without the components that all of them begin with.

    >>> without_common(["gpt/block_1/ffn", "gpt/head"])
    ['block_1/ffn', 'head']
    """
    parts = [path.split("/") for path in paths]
    same = 0
    shortest = min(map(len, parts), default=1)
    while same < shortest - 1 and len({p[same] for p in parts}) == 1:
        same += 1
    return ["/".join(each[same:]) for each in parts]


def run_style(number: int) -> dict[str, Any]:
    """Returns how the lines of one of several runs are drawn."""
    return {
        "color": RUNS[number % len(RUNS)],
        "linestyle": RUN_STYLES[number % len(RUN_STYLES)],
    }
