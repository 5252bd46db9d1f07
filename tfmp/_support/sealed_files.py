"""Files that are there whole or not at all, and that notice a change.

A sealed file starts with a head of text.  Formats that look for their own
start, HDF5 ("user block") and zip among them, are read on behind it by
programs that know nothing of it:

    tfmp sha256 <64 hexadecimal digits>
    <one line of JSON>
    <spaces up to a power of two, at least 512 bytes for the head>
    <the file itself>

The digest is that of everything behind the first line, so that
`tail -n +2 FILE | sha256sum` prints it too.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

MARK = b"tfmp sha256 "
FIRST_LINE = len(MARK) + 64 + 1
SMALLEST_HEAD = 512
CHUNK = 1 << 20
PART = ".part"
DEAD_AFTER = 3600.0  # seconds without a byte


def write(
    path: pathlib.Path, body: Callable[[], io.BytesIO], notes: Any
) -> None:
    """Writes a sealed file, or replaces it, in one step.

    At every moment there is the old file or a new one, on disk and whole,
    also if the process is killed or the machine stops, and if several write:
    the last one to end decides.

    Args:
        path: where to; missing folders are made.
        body: returns the file itself.
        notes: what goes into the head, as JSON has it.

    Raises:
        TypeError: if JSON cannot have the notes.
    """
    head = _head(notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = body().getbuffer()
    digest = hashlib.sha256(head)
    digest.update(content)
    first = MARK + digest.hexdigest().encode() + b"\n"
    _replace(path, first, head, content)
    _sync_folder(path.parent)


def replace(path: pathlib.Path, data: bytes) -> None:
    """Writes a file without a seal, or replaces it, in one step."""
    _replace(path, data)


def check_writable(folder: pathlib.Path) -> None:
    """Makes a folder if it is not there, and a file in it, and removes that.

    Raises:
        OSError: if that cannot be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / ".writable", b"")
    (folder / ".writable").unlink(missing_ok=True)


def _replace(path: pathlib.Path, *parts: bytes | memoryview) -> None:
    """Writes beside the file, under a name of its own, and renames."""
    _remove_remains(path)
    token = secrets.token_hex(8)
    part = path.with_name(f".{path.name}.{token}{PART}")
    try:
        with open(part, "xb") as target:
            for each in parts:
                target.write(each)
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remove_remains(path: pathlib.Path) -> None:
    """Removes what processes that were killed left beside a file, in time."""
    pattern = f".{glob.escape(path.name)}.*{PART}"
    for part in path.parent.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # somebody else did
            if time.time() - part.stat().st_mtime > DEAD_AFTER:
                part.unlink()


def _head(notes: Any) -> bytes:
    """Returns the lines of the head but the first, padded."""
    try:
        # An array, or a number of NumPy, as lists and numbers.
        line = json.dumps(notes, default=lambda a: a.tolist()).encode()
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(
            "`notes` must be dictionaries, lists, strings and numbers. "
            f"Received: {notes!r}"
        ) from error
    size = SMALLEST_HEAD
    while size <= FIRST_LINE + len(line):
        size *= 2
    return line.ljust(size - FIRST_LINE - 1) + b"\n"


def read(file: IO[bytes], path: pathlib.Path) -> Any:
    """Returns the notes of a sealed file, None if it was never sealed.

    Args:
        file: open at its start.
        path: for errors.

    Raises:
        ValueError: if the file is not what was sealed.
    """
    first = file.readline(FIRST_LINE)
    if not first.startswith(MARK):
        return None
    digest = hashlib.sha256()
    head = file.readline()
    digest.update(head)
    for chunk in _chunks(file):
        digest.update(chunk)
    if first != MARK + digest.hexdigest().encode() + b"\n":
        raise ValueError(
            "`path` must be a whole file, but this one was cut short or "
            "changed after it was written: its SHA-256 is not the one in its "
            f"first line. Received: {str(path)!r}"
        )
    try:
        return json.loads(head)
    except (RecursionError, ValueError) as error:
        raise ValueError(
            "`path` must be a file with a head in JSON. "
            f"Received: {str(path)!r}"
        ) from error


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _sync_folder(folder: pathlib.Path) -> None:
    """Has a rename reach the disk, where folders can be opened."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
