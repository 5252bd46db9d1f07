"""Models for inference alone, with kernels of 8 bits; and back."""

from tfmp._freezing.freeze_report import FreezeReport, FrozenRow
from tfmp._freezing.freezer import freeze, thaw

__all__ = ["FreezeReport", "FrozenRow", "freeze", "thaw"]
