"""Packages that only an analysis needs, imported when it does."""

from __future__ import annotations

import importlib
from typing import Any


def library(name: str) -> Any:
    """Returns a module of SciPy or matplotlib.

    Raises:
        ImportError: if the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {name.partition('.')[0]}: "
            "pip install 'tfmp[analysis]'"
        ) from error
