"""`tfmp report`: a page about trainings, from what the monitor logged."""

from __future__ import annotations

import argparse
import pathlib

from tfmp._command_line import overwriting
from tfmp._command_line.outcome import Command, Outcome


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log_dirs",
        nargs="+",
        metavar="LOG_DIR",
        help="folder that tfmp.callbacks.ScaleMonitor wrote; several are "
        "compared side by side",
    )
    parser.add_argument(
        "--out",
        default="report.html",
        metavar="FILE",
        help="the page (report.html); its pictures lie beside it",
    )
    overwriting.add_argument(parser, "FILE")


def _run(options: argparse.Namespace) -> Outcome:
    from tfmp import reporting

    out = pathlib.Path(options.out)
    overwriting.check(out, options.force)
    replaced = out.exists()
    files = reporting.write_report(options.log_dirs, options.out)
    lines = []
    for run in files.runs:
        lines.append(f"{run['name']}: {run['samples']} samples")
        lines += [f"  {f['level']}: {f['text']}" for f in run["findings"]]
        lines += [f"  note: {note}" for note in run["notes"]]
    pictures = f", {len(files.plots)} pictures" if files.plots else ""
    done = "replaced" if replaced else "wrote"
    lines.append(f"{done} {files.page}{pictures}")
    return Outcome("\n".join(lines), {**files.to_dict(), "replaced": replaced})


COMMAND = Command(
    "report",
    "write a page with plots about one training or several",
    _arguments,
    _run,
    ("tfmp report logs/", "tfmp report logs/a logs/b --out compared.html"),
)
