"""Finds the layer and the tensor in which a number stops being finite."""

from tfmp.debug.diagnosis import find_nonfinite
from tfmp.debug.findings import NonFinite, NonFiniteError, TooLarge

__all__ = ["NonFinite", "NonFiniteError", "TooLarge", "find_nonfinite"]
