"""Samples of a training, and the files they are written to."""

from __future__ import annotations

import errno
import json
import math
import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfmp._support import sealed_files
from tfmp._support.changes import Change, sentences

JSON_LINES = "scales.jsonl"
TENSORBOARD = "scales"
RUN = "run.json"
FAULTS = (OSError, tf.errors.OpError)


NOTHING: Mapping[str, Any] = types.MappingProxyType({})
COUNTS = ("skipped_steps", "overflow_count")
CHANGES = "precision_changes"  # TensorBoard's name of them


class Sample(NamedTuple):
    """What was read at one moment.

    Attributes:
        step: training steps done.
        epoch: the epoch, from 0.
        time: seconds since 1970.
        state: what was read of the model and the optimizer, by name.
        measured: what a step was measured to do, by name.
        histograms: of exponents: the lowest and the counts, by tensor.
        logs: those of Keras.
        findings: what is wrong, in words.
        changes: of precision, since the sample before.
    """

    step: int
    epoch: int
    time: float
    state: Mapping[str, float]
    measured: Mapping[str, float] = NOTHING
    histograms: Mapping[str, tuple[int, list[int]]] = NOTHING
    logs: Mapping[str, float] = NOTHING
    findings: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    def core(self) -> list[Any]:
        """Returns step, epoch, time and the values, as JSON has it."""
        return [*self[:3], dict(self.state), dict(self.measured)]

    def items(self) -> dict[str, float]:
        """Returns the values by name; a count is an integer."""
        found = {**self.state, **self.measured}
        for name in COUNTS:
            if name in found:
                found[name] = int(found[name])
        return found

    def record(self) -> dict[str, float]:
        """Returns step, epoch, time and the values, in one dictionary."""
        head = {"step": self.step, "epoch": self.epoch, "time": self.time}
        return {**head, **self.items()}

    def json(self) -> str:
        """Returns all of it as JSON, null for what is not finite.

        >>> Sample(1, 0, 0.5, {"loss_scale": math.inf}).json()
        '{"step": 1, "epoch": 0, "time": 0.5, "loss_scale": null}'
        """
        record: dict[str, Any] = _finite(self.record())
        more = {
            "logs": _finite(self.logs),
            "histograms": dict(self.histograms),
            "findings": list(self.findings),
            "changes": [change.to_dict() for change in self.changes],
        }
        record |= {name: value for name, value in more.items() if value}
        return json.dumps(record, allow_nan=False)

    def summary(self) -> bytes:
        """Returns the values as one serialized TensorBoard summary."""
        value = tf.compat.v1.Summary.Value
        values = [
            value(tag=name, simple_value=x) for name, x in self.items().items()
        ]
        values += [
            value(tag=f"{name}/exponents", histo=_histogram(*histogram))
            for name, histogram in self.histograms.items()
        ]
        if self.changes:
            values.append(_text(CHANGES, sentences(self.changes)))
        found: bytes = tf.compat.v1.Summary(value=values).SerializeToString()
        return found


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in values.items()}


def _histogram(lowest: int, counts: list[int]) -> Any:
    """Returns a histogram of whole numbers as TensorBoard has it."""
    numbers = range(lowest, lowest + len(counts))
    pairs = list(zip(numbers, counts, strict=True))
    return tf.compat.v1.HistogramProto(
        min=lowest,
        max=lowest + len(counts),
        num=sum(counts),
        sum=sum(n * count for n, count in pairs),
        sum_squares=sum(n * n * count for n, count in pairs),
        bucket_limit=[lowest, *(n + 1 for n in numbers)],
        bucket=[0, *counts],
    )


def _text(name: str, paragraphs: list[str]) -> Any:
    """Returns paragraphs as TensorBoard's tab of texts has them."""
    v1 = tf.compat.v1
    plugin = v1.SummaryMetadata.PluginData(plugin_name="text")
    return v1.Summary.Value(
        tag=name,
        tensor=tf.make_tensor_proto("\n\n".join(paragraphs), tf.string),
        metadata=v1.SummaryMetadata(plugin_data=plugin),
    )


class SampleLog:
    """Writes samples into a folder, as JSON lines and for TensorBoard.

    Invariants: a sample has left the process when `write` returns;
    `scales.jsonl` holds whole lines only, also on a full disk.  Files that
    somebody deletes or replaces meanwhile are begun anew, and `write` says so.

    Args:
        folder: is made if it is not there; what it has is appended to.

    Raises:
        OSError: if the folder cannot be made or written to.
        tf.errors.OpError: the same, for TensorBoard's file.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder / TENSORBOARD
        self._about: bytes | None = None
        self._open()

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lines = _Lines(self._folder.with_name(JSON_LINES))
        self._board: Any = self._new_board()
        self._events: list[pathlib.Path] = []

    def describe(self, run: Mapping[str, Any]) -> None:
        """Writes what the samples are of to `run.json`, whole or not at all.

        Raises:
            OSError: if it cannot be written.
        """
        text = json.dumps(run, indent=1) + "\n"
        self._about = text.encode()
        sealed_files.replace(self._lines.path.with_name(RUN), self._about)

    def _new_board(self) -> Any:
        return tf.summary.create_file_writer(str(self._folder))

    def write(self, sample: Sample) -> None:
        """Writes a sample to both files, JSON first.

        Raises:
            FileNotFoundError: if it was, but those before are gone.
            OSError, tf.errors.OpError: if it cannot be written.
        """
        gone = [path for path in self._events if not path.exists()]
        gone += [self._lines.path] * self._lines.is_gone()
        try:
            if gone:
                self._begin_anew()
            self._lines.append(sample.json())
            self._write_summary(sample)
        except FAULTS:
            # Its file may end in half a record, and could not be read on.
            self._board, self._events = None, []
            raise
        if gone:
            raise FileNotFoundError(
                errno.ENOENT,
                f"deleted or replaced before step {sample.step}; a new one is "
                "begun",
                str(gone[0]),
            )

    def _begin_anew(self) -> None:
        self._lines.close()
        self._open()
        about = self._lines.path.with_name(RUN)
        if self._about is not None and not about.exists():
            sealed_files.replace(about, self._about)

    def _write_summary(self, sample: Sample) -> None:
        self._board = self._board or self._new_board()
        # Another callback may have switched recording off for this step.
        with self._board.as_default(), tf.summary.record_if(True):
            tf.summary.experimental.write_raw_pb(
                sample.summary(), step=sample.step
            )
        self._board.flush()
        if not self._events:
            every = list(self._folder.glob("events.*"))
            self._events = [
                max(every, key=lambda path: path.stat().st_mtime_ns)
            ]

    def close(self) -> None:
        """Closes both files.

        Raises:
            OSError, tf.errors.OpError: if something could not be written.
        """
        self._lines.close()
        if self._board is not None:
            self._board.close()


def open_log(folder: pathlib.Path | None) -> SampleLog | None:
    """Returns the log of a folder, None if there is none.

    Raises:
        ValueError: if it cannot be written to.
    """
    try:
        return None if folder is None else SampleLog(folder)
    except FAULTS as fault:
        raise ValueError(
            "`log_dir` must be a folder that can be written to. "
            f"Received: {str(folder)!r} ({fault})"
        ) from fault


class _Lines:
    """A file to append whole lines to, each in one write."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._file: Any = open(path, "ab", buffering=0)
        self._torn = _is_torn(path)

    def is_gone(self) -> bool:
        """Whether the path is no longer that of the file."""
        try:
            own = os.fstat(self._file.fileno())
            return not os.path.samestat(own, self.path.stat())
        except FileNotFoundError:
            return True

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
            raise OSError(code, os.strerror(code), str(self.path))
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
