"""Whether a command may replace a file that is there."""

from __future__ import annotations

import argparse
import pathlib
import sys


def add_argument(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds `--force` to a command that writes a file."""
    parser.add_argument(
        "--force", action="store_true", help=f"replace {name} if it is there"
    )


def check(path: pathlib.Path, force: bool) -> None:
    """Asks before a file is replaced; without a terminal there is no asking.

    Args:
        path: of the file to write.
        force: whether it may be replaced unasked.

    Raises:
        ValueError: if it is there and to be kept.
    """
    if force or not path.exists():
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise ValueError(f"{path} is there already; --force replaces it")
    sys.stderr.write(f"{path} is there already. Replace it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ValueError(f"{path} is kept as it was")
