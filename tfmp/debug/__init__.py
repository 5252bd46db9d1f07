"""Finds the layer and the tensor in which a number stops being finite."""

from tfmp.debug.diagnosis import find_nonfinite
from tfmp.debug.findings import NonFinite, NonFiniteError

__all__ = ["NonFinite", "NonFiniteError", "find_nonfinite"]
