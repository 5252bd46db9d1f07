"""What a command has to say, for people and for programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """The result of a command.

    Attributes:
        text: for people.
        data: the same for programs: JSON-serialisable values.
        problem: why what was asked for was not reached; empty if it was.
    """

    text: str
    data: Any
    problem: str = ""

    def shown(self, as_json: bool) -> str:
        """Returns what goes to the standard output."""
        if not as_json:
            return self.text
        return json.dumps(self.data, indent=2, allow_nan=False)


class Command(NamedTuple):
    """One command, as the parser and the program see it.

    Attributes:
        name: that users type.
        summary: one line.
        arguments: adds its arguments to a parser.
        run: takes the parsed arguments.
        examples: lines for the end of its help.
    """

    name: str
    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Outcome]
    examples: tuple[str, ...] = ()
