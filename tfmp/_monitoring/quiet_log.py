"""A log whose faults do not end a training."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import keras

from tfmp._monitoring.operators import describe
from tfmp._monitoring.sample_log import FAULTS, Sample, SampleLog, open_log


class QuietLog:
    """Writes samples; what cannot be written is warned of, once.

    Args:
        owner: of the log, in the warning.
        folder: local; None for no files.
        model: built when the first sample is written.
        every: steps between two samples.

    Raises:
        ValueError: if the folder cannot be written to.
    """

    def __init__(
        self,
        owner: str,
        folder: pathlib.Path | None,
        model: keras.Model,
        every: int,
    ) -> None:
        self._owner, self._folder = owner, folder
        self._model, self._every = model, every
        self._log = open_log(folder)
        self._described = self._warned = False

    def write(self, sample: Sample) -> None:
        """Writes a sample, and before the first what they are of."""
        if not self._described:
            self._described = True
            self._try(lambda log: log.describe(self._about()))
        self._try(lambda log: log.write(sample))

    def _about(self) -> dict[str, Any]:
        return describe(self._model, self._every)

    def close(self) -> None:
        """Closes the files; closing again does nothing."""
        self._try(SampleLog.close)
        self._log = None

    def _try(self, use: Callable[[SampleLog], None]) -> None:
        if self._log is None:
            return
        try:
            use(self._log)
        except FAULTS as fault:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self._owner} lost samples of {str(self._folder)!r} "
                    f"({fault}). Training goes on; further faults are not "
                    "reported.",
                    RuntimeWarning,
                    stacklevel=4,
                )
