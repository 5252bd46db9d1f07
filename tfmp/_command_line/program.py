"""`main`: parses, runs a command, prints, and answers with an exit code.

    0   done
    1   failed, or what was asked for was not reached
    2   not understood

What a command has to say goes to the standard output, all else to the
standard error, also what TensorFlow and Keras print meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from tfmp._command_line import (
    benchmark_command,
    convert_command,
    export_command,
    formats_command,
    info_command,
    inspect_command,
    report_command,
    revert_command,
)
from tfmp._command_line.outcome import Outcome
from tfmp.version import VERSION

COMMANDS = (
    info_command.COMMAND,
    formats_command.COMMAND,
    inspect_command.COMMAND,
    benchmark_command.COMMAND,
    convert_command.COMMAND,
    revert_command.COMMAND,
    export_command.COMMAND,
    report_command.COMMAND,
)
DONE, FAILED, NOT_UNDERSTOOD, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `tfmp`.

    Args:
        arguments: by default those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 not understood.

    >>> main(["formats", "0.1", "--format", "E4M3"])
    0.1 as  nearest    code  relative error  ulp  what happens
    E4M3    0.1015625  0x1d  1.56e-02        0.2  rounded
    0
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as stop:  # after --help, or an error that is printed
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(list(map(_protected, arguments)))
    if options.run is None:
        parser.print_help(sys.stderr)
        return NOT_UNDERSTOOD
    try:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = options.run(options)
    except Exception as error:
        if options.traceback:
            raise
        return _complain(options.command, _in_words(error))
    _show(outcome, options.json)
    return (
        _complain(options.command, outcome.problem) if outcome.problem else DONE
    )


def _protected(argument: str) -> str:
    """Returns a negative number so that argparse sees no option in `-1e5`."""
    try:
        float(argument)
    except ValueError:
        return argument
    return f" {argument}" if argument.startswith("-") else argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfmp",
        description="Mixed precision and FP8 for Keras on TensorFlow.",
        epilog="tfmp COMMAND --help says more about one.",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command"
    )
    for command in COMMANDS:
        examples = "\n  ".join(("examples:", *command.examples))
        inner = commands.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=examples if command.examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(inner)
        inner.add_argument(
            "--json", action="store_true", help="print JSON and nothing else"
        )
        inner.add_argument(
            "--traceback",
            action="store_true",
            help="if it fails, say where in the code",
        )
        inner.set_defaults(run=command.run)
    return parser


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _complain(command: str, problem: str) -> int:
    sys.stderr.write(f"tfmp {command}: {problem}\n")
    return FAILED


def _show(outcome: Outcome, as_json: bool) -> None:
    """Prints; whoever reads the pipe may stop reading at any line."""
    try:
        sys.stdout.write(f"{outcome.shown(as_json)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
