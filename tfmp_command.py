"""Starts the command `tfmp`, without what it may not need.

`import tfmp` brings TensorFlow, which takes seconds.
So the package is made known here without being run; its modules can be
imported all the same, and a command imports those that it needs.
"""

import importlib
import importlib.util
import sys


def main() -> int:
    """Runs the command; returns its exit code."""
    spec = importlib.util.find_spec("tfmp")
    if spec is not None and "tfmp" not in sys.modules:
        sys.modules["tfmp"] = importlib.util.module_from_spec(spec)
    code: int = importlib.import_module("tfmp._command_line").main()
    return code


if __name__ == "__main__":
    sys.exit(main())
