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

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import IO, Any

MARK = b"tfmp sha256 "
FIRST_LINE = len(MARK) + 64 + 1
SMALLEST_HEAD = 512
CHUNK = 1 << 20


def write(
    path: pathlib.Path, body: Callable[[pathlib.Path], None], notes: Any
) -> None:
    """Writes a sealed file, or replaces it, in one step.

    At every moment there is the old file or the new one, on disk and whole,
    also if the process is killed or the machine stops.

    Args:
        path: where to; missing folders are made.
        body: writes the file itself to the path it is given, which is in the
            same folder and has the same suffixes.
        notes: what goes into the head, as JSON has it.

    Raises:
        TypeError: if JSON cannot have the notes.
    """
    head = _head(notes)
    bare = path.with_name(f".bare.{path.name}")
    part = path.with_name(f".part.{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        body(bare)
        with open(bare, "rb") as source, open(part, "wb") as target:
            _write(target, head, source)
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        bare.unlink(missing_ok=True)
        part.unlink(missing_ok=True)


def replace(path: pathlib.Path, data: bytes) -> None:
    """Writes a file without a seal, or replaces it, in one step."""
    part = path.with_name(f".part.{path.name}")
    try:
        with open(part, "wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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


def _write(target: IO[bytes], head: bytes, source: IO[bytes]) -> None:
    digest = hashlib.sha256(head)
    target.write(MARK + b"0" * 64 + b"\n" + head)
    for chunk in _chunks(source):
        digest.update(chunk)
        target.write(chunk)
    target.seek(len(MARK))
    target.write(digest.hexdigest().encode())
    target.flush()
    os.fsync(target.fileno())


def read(path: pathlib.Path) -> Any:
    """Returns the notes of a sealed file, None if it was never sealed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not what was sealed.
    """
    with open(path, "rb") as file:
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
    return json.loads(head)


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
