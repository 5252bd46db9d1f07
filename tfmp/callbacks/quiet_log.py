"""A log whose faults do not end a training."""

from __future__ import annotations

import pathlib
import warnings

import keras

from tfmp._monitoring.operators import describe
from tfmp._monitoring.sample_log import FAULTS, Sample, open_log


class QuietLog:
    """Writes samples; what cannot be written is warned of, once.

    Args:
        folder: local; None for no files.
        model: built, that the samples are of.
        every: steps between two samples.

    Raises:
        ValueError: if the folder cannot be written to.
    """

    def __init__(
        self, folder: pathlib.Path | None, model: keras.Model, every: int
    ) -> None:
        self._folder, self._model, self._every = folder, model, every
        self._log = open_log(folder)
        self._described = self._warned = False

    def write(self, sample: Sample) -> None:
        """Writes a sample, and before the first what they are of."""
        if self._log is None:
            return
        try:
            if not self._described:
                self._described = True
                self._log.describe(describe(self._model, self._every))
            self._log.write(sample)
        except FAULTS as fault:
            self._warn(fault)

    def close(self) -> None:
        """Closes the files; closing again does nothing."""
        log, self._log = self._log, None
        try:
            if log is not None:
                log.close()
        except FAULTS as fault:
            self._warn(fault)

    def _warn(self, fault: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "AdaptivePrecision could not write a sample to "
                f"{str(self._folder)!r} ({fault}). Training goes on; further "
                "faults are not reported.",
                RuntimeWarning,
                stacklevel=2,
            )
