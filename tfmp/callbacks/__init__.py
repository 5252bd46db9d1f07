"""Keras callbacks: show what low precision does in training, and survive."""

from tfmp.callbacks.backup import BackupAndRestore
from tfmp.callbacks.scale_monitor import ScaleMonitor
from tfmp.callbacks.terminate_on_overflow import TerminateOnOverflow

__all__ = ["BackupAndRestore", "ScaleMonitor", "TerminateOnOverflow"]
