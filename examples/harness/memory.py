"""The most memory that was in use while something ran."""

from __future__ import annotations

import pathlib
import re

import tensorflow as tf

GPU = "GPU:0"
OWN = pathlib.Path("/proc/self")


class Peak:
    """Watches the most memory in use from here on.

    On a GPU it is what TensorFlow has allocated there.  On a CPU it is the
    high-water mark of the process, with all that earlier runs have left in it;
    Linux can set that back, and where nothing can, the peak is not known.
    """

    def __init__(self) -> None:
        self.on_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.known = True
        if self.on_gpu:
            tf.config.experimental.reset_memory_stats(GPU)
            return
        try:
            (OWN / "clear_refs").write_text("5")
        except OSError:
            self.known = False

    def mebibytes(self) -> float | None:
        """Returns the peak since then; None if it is not known."""
        if not self.known:
            return None
        if self.on_gpu:
            return tf.config.experimental.get_memory_info(GPU)["peak"] / 2**20
        mark = re.search(r"VmHWM:\s+(\d+) kB", (OWN / "status").read_text())
        return int(mark[1]) / 2**10 if mark else None
