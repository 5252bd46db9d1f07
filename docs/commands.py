"""What `tfmp COMMAND --help` says, as a page for the site."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
from unittest import mock

from tfmp._command_line import main
from tfmp._command_line.program import COMMANDS

PLAIN = {"COLUMNS": "79", "NO_COLOR": "1"}


def write(folder: pathlib.Path) -> None:
    """Writes the help of every command to `folder/commands.md`."""
    with mock.patch.dict(os.environ, PLAIN):
        sections = [
            f"## tfmp {command.name}\n\n```text\n{help_of(command.name)}```\n"
            for command in COMMANDS
        ]
    (folder / "commands.md").write_text("\n".join(sections), encoding="utf-8")


def help_of(name: str) -> str:
    """Returns what a command prints of itself.

    >>> help_of("info").splitlines()[0].split()[:3]
    ['usage:', 'tfmp', 'info']
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main([name, "--help"])
    return said.getvalue()
