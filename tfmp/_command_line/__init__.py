"""The command `tfmp`."""

from tfmp._command_line.program import main

__all__ = ["main"]
