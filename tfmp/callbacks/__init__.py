"""Keras callbacks: show what low precision does in training, and survive."""

from tfmp._support.changes import Change
from tfmp._switching.hysteresis import PrecisionBounds, PrecisionRule
from tfmp._switching.loss_watch import Rollback
from tfmp.callbacks.adaptive_precision import AdaptivePrecision
from tfmp.callbacks.backup import BackupAndRestore
from tfmp.callbacks.precision_scheduler import PrecisionScheduler
from tfmp.callbacks.pruning import Pruning
from tfmp.callbacks.scale_monitor import ScaleMonitor
from tfmp.callbacks.terminate_on_overflow import TerminateOnOverflow

__all__ = [
    "AdaptivePrecision",
    "BackupAndRestore",
    "Change",
    "PrecisionBounds",
    "PrecisionRule",
    "PrecisionScheduler",
    "Pruning",
    "Rollback",
    "ScaleMonitor",
    "TerminateOnOverflow",
]
