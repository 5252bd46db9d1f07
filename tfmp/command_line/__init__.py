"""The command `tfmp`."""

from tfmp.command_line.program import main

__all__ = ["main"]
