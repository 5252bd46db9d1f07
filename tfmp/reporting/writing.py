"""`write_report`: the page, and the pictures beside it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tfmp._support import checks, sealed_files
from tfmp.reporting import curves, page
from tfmp.reporting.analysis import Analysis, analyse
from tfmp.reporting.drawing import Plot

SUFFIXES = (".html", ".htm")


@dataclasses.dataclass(frozen=True)
class ReportFiles:
    """What `write_report` wrote.

    Attributes:
        page: the HTML file.
        plots: the PNG files.
        runs: what the page says of each run, as JSON-serialisable values.

    >>> ReportFiles(pathlib.Path("report.html"), (), ()).to_dict()["page"]
    'report.html'
    """

    page: pathlib.Path
    plots: tuple[pathlib.Path, ...]
    runs: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        checks.fields(self, page=pathlib.Path, plots=tuple, runs=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serialisable values."""
        return {
            "page": str(self.page),
            "plots": [str(path) for path in self.plots],
            "runs": list(self.runs),
        }


def write_report(log_dirs: Any, out: Any = "report.html") -> ReportFiles:
    """Writes one self-contained HTML page about a training, or several.

    The page has no reference to anything outside of it.  Its pictures are also
    written as PNG files into a folder beside it, `report_plots` for
    `report.html`.  What was there of these names is replaced.

    Args:
        log_dirs: a folder that `tfmp.callbacks.ScaleMonitor` wrote, or a list
            of them; several are compared side by side.
        out: the HTML file; its folder is made.

    Returns:
        A `ReportFiles`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a folder has no samples, or `out` is no HTML file.
        ImportError: if matplotlib is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = pathlib.Path(folder, "scales.jsonl")
    ...     _ = log.write_text('{"step": 1, "logs": {"loss": 0.5}}')
    ...     files = write_report(folder, f"{folder}/report.html")
    >>> files.page.name, [path.name for path in files.plots]
    ('report.html', ['loss.png'])
    """
    target = checks.path("out", out)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"`out` must be a file that ends in {' or '.join(SUFFIXES)}. "
            f"Received: {str(target)!r}"
        )
    analyses = analyse(_checked_list(log_dirs))
    several = len(analyses) > 1
    plots = [
        analysis.plots(f"{at + 1}_" if several else "")
        for at, analysis in enumerate(analyses)
    ]
    compared = _compare(analyses) if several else []
    text = page.render(analyses, plots, compared)
    pictures = _write_plots(
        target, [*compared, *(p for each in plots for p in each)]
    )
    sealed_files.replace(target, text.encode())
    facts = tuple(analysis.to_dict() for analysis in analyses)
    return ReportFiles(target, pictures, facts)


def _checked_list(log_dirs: Any) -> list[Any]:
    if isinstance(log_dirs, (str, os.PathLike)):
        return [checks.path("log_dirs", log_dirs)]
    said = "a folder, or a list of one or more"
    found = checks.sequence("log_dirs", log_dirs, str | os.PathLike, said)
    if not found:
        raise ValueError(f"`log_dirs` must be {said}. Received: {log_dirs!r}")
    return [checks.path("log_dirs", each) for each in found]


def _compare(analyses: Sequence[Analysis]) -> list[Plot]:
    runs = {analysis.name: analysis.run for analysis in analyses}
    drawn = curves.draw(runs, "losses")
    return [drawn] if drawn else []


def _write_plots(
    target: pathlib.Path, plots: Sequence[Plot]
) -> tuple[pathlib.Path, ...]:
    folder = target.with_name(f"{target.stem}_plots")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in plots:
        paths.append(folder / f"{plot.name}.png")
        sealed_files.replace(paths[-1], plot.png)
    return tuple(paths)
