"""Samples of a training, and the files they are written to."""

from __future__ import annotations

import errno
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

JSON_LINES = "scales.jsonl"
TENSORBOARD = "scales"
FAULTS = (OSError, tf.errors.OpError)


class Sample(NamedTuple):
    """What was read at one moment.

    Attributes:
        step: training steps done.
        epoch: the epoch, from 0.
        time: seconds since 1970.
        names: of the values.
        values: float64 of the length of `names`.
    """

    step: int
    epoch: int
    time: float
    names: tuple[str, ...]
    values: np.ndarray

    def items(self) -> dict[str, float]:
        """Returns the values by name; a count is an integer."""
        found = dict(zip(self.names, self.values.tolist(), strict=True))
        if "skipped_steps" in found:
            found["skipped_steps"] = int(found["skipped_steps"])
        return found

    def record(self) -> dict[str, float]:
        """Returns step, epoch, time and the values, in one dictionary."""
        head = {"step": self.step, "epoch": self.epoch, "time": self.time}
        return {**head, **self.items()}

    def json(self) -> str:
        """Returns the record as JSON, null for what is not finite.

        >>> Sample(1, 0, 0.5, ("loss_scale",), np.array([np.inf])).json()
        '{"step": 1, "epoch": 0, "time": 0.5, "loss_scale": null}'
        """
        values = self.record().items()
        finite = {k: v if math.isfinite(v) else None for k, v in values}
        return json.dumps(finite, allow_nan=False)

    def summary(self) -> bytes:
        """Returns the values as one serialized TensorBoard summary."""
        value = tf.compat.v1.Summary.Value
        scalars = self.items().items()
        return tf.compat.v1.Summary(
            value=[value(tag=name, simple_value=x) for name, x in scalars]
        ).SerializeToString()


class SampleLog:
    """Writes samples into a folder, as JSON lines and for TensorBoard.

    Invariants: a sample has left the process when `write` returns;
    `scales.jsonl` holds whole lines only, also on a full disk.

    Args:
        folder: is made if it is not there; what it has is appended to.

    Raises:
        OSError: if the folder cannot be made or written to.
        tf.errors.OpError: the same, for TensorBoard's file.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder / TENSORBOARD
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lines = _Lines(folder / JSON_LINES)
        self._board: Any = self._new_board()

    def _new_board(self) -> Any:
        return tf.summary.create_file_writer(str(self._folder))

    def write(self, sample: Sample) -> None:
        """Writes a sample to both files, JSON first.

        Raises:
            OSError, tf.errors.OpError: if it cannot be written.
        """
        try:
            self._lines.append(sample.json())
            self._write_summary(sample)
        except FAULTS:
            # Its file may end in half a record, and could not be read on.
            self._board = None
            raise

    def _write_summary(self, sample: Sample) -> None:
        self._board = self._board or self._new_board()
        # Another callback may have switched recording off for this step.
        with self._board.as_default(), tf.summary.record_if(True):
            tf.summary.experimental.write_raw_pb(
                sample.summary(), step=sample.step
            )
        self._board.flush()

    def close(self) -> None:
        """Closes both files.

        Raises:
            OSError, tf.errors.OpError: if something could not be written.
        """
        self._lines.close()
        if self._board is not None:
            self._board.close()


class _Lines:
    """A file to append whole lines to, each in one write."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._file: Any = open(path, "ab", buffering=0)
        self._torn = _is_torn(path)

    def append(self, line: str) -> None:
        """Appends a line, or leaves the file as it was.

        Raises:
            OSError: if it cannot be written.
        """
        data = ("\n" * self._torn + line + "\n").encode()
        end = os.fstat(self._file.fileno()).st_size
        if self._file.write(data) != len(data):
            self._file.truncate(end)
            code = errno.ENOSPC
            raise OSError(code, os.strerror(code), str(self._path))
        self._torn = False

    def close(self) -> None:
        self._file.close()


def _is_torn(path: pathlib.Path) -> bool:
    """Whether a file's last line has no end, as after a loss of power."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
