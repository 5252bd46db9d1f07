"""Keras callbacks that show what low precision does in training."""

from tfmp.callbacks.scale_monitor import ScaleMonitor

__all__ = ["ScaleMonitor"]
