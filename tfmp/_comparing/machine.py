"""Where something was measured, in a line."""

from __future__ import annotations

import os
import pathlib
import platform

import keras
import tensorflow as tf

from tfmp import hardware
from tfmp.version import VERSION


def said() -> str:
    """Returns devices, processor, and versions."""
    return (
        f"{hardware.detect()}; {_processor()}, {os.cpu_count()} cores; "
        f"TensorFlow {tf.__version__}, Keras {keras.version()}, tfmp {VERSION}"
    )


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        lines = ""
    for line in lines.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
