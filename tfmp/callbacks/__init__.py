"""Keras callbacks: show what low precision does in training, and survive."""

from tfmp.callbacks.adaptive_precision import AdaptivePrecision
from tfmp.callbacks.backup import BackupAndRestore
from tfmp.callbacks.precision_scheduler import PrecisionScheduler
from tfmp.callbacks.scale_monitor import ScaleMonitor
from tfmp.callbacks.terminate_on_overflow import TerminateOnOverflow
from tfmp.changes import Change
from tfmp.switching.hysteresis import PrecisionBounds

__all__ = [
    "AdaptivePrecision",
    "BackupAndRestore",
    "Change",
    "PrecisionBounds",
    "PrecisionScheduler",
    "ScaleMonitor",
    "TerminateOnOverflow",
]
