"""Keras' own tests, as the installed wheel has them, of tfmp's classes.

A test module of Keras is run as it is, but for what it imports from Keras: it
finds tfmp's classes in place of those that they extend.
"""

from __future__ import annotations

import builtins
import importlib.util
import pathlib
import types
import unittest
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import pytest

import tfmp
from tfmp import policies
from tfmp.layers.classes import OURS

# What is found, and what in its place.  Compared by identity: some of it has
# no hash.
Pairs = list[tuple[Any, Any]]
STANDS_FOR: Pairs = [
    *OURS.items(),
    (keras.optimizers.LossScaleOptimizer, tfmp.optimizers.LossScaleOptimizer),
    (keras.callbacks.BackupAndRestore, tfmp.callbacks.BackupAndRestore),
    (keras.DTypePolicy, tfmp.Policy),
    (keras.dtype_policies.get, policies.get),
]


class Known(NamedTuple):
    """A test of Keras that is to fail.

    Attributes:
        reason: why tfmp differs.
        raises: how it fails; where it expects an error, another class of
            error would raise that, and not an `AssertionError`.
    """

    reason: str
    raises: type[Exception] = AssertionError


class Replaced(types.ModuleType):
    """A module of Keras in which tfmp's objects stand for Keras' own.

    Args:
        module: the module; those inside it are replaced too.
        pairs: what is found, and what in its place.
    """

    def __init__(self, module: types.ModuleType, pairs: Pairs) -> None:
        super().__init__(module.__name__)
        self._module, self._pairs = module, pairs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if _of_keras(found):
            return Replaced(found, self._pairs)
        for stock, ours in self._pairs:
            if found is stock:
                return ours
        return found


def _of_keras(found: Any) -> bool:
    if not isinstance(found, types.ModuleType):
        return False
    return found.__name__.partition(".")[0] == "keras"


def find(path: str) -> pathlib.Path | None:
    """Returns a test module's file, None if the wheel does not ship it.

    Args:
        path: below `keras.src`, such as `layers.core.dense_test`.
    """
    try:
        spec = importlib.util.find_spec(f"keras.src.{path}")
    except ModuleNotFoundError:  # its folder is not there
        return None
    return (
        None if spec is None or not spec.origin else pathlib.Path(spec.origin)
    )


def load(file: pathlib.Path, pairs: Pairs = STANDS_FOR) -> dict[str, Any]:
    """Runs a test module, and returns what it defines and imports."""

    def replacing(name: str, *args: Any, **kwargs: Any) -> Any:
        module = builtins.__import__(name, *args, **kwargs)
        return Replaced(module, pairs) if _of_keras(module) else module

    names: dict[str, Any] = {
        "__name__": f"keras_suite.{file.stem}",
        "__file__": str(file),
        "__builtins__": {**vars(builtins), "__import__": replacing},
    }
    exec(compile(file.read_text(), file, "exec"), names)
    return names


def cases(
    file: pathlib.Path, known: Mapping[str, Mapping[str, Known]]
) -> dict[str, type[unittest.TestCase]]:
    """Returns the test classes of a module, by name.

    Args:
        file: as of `find`.
        known: by class and test what fails, and must.
    """
    found = {
        name: value
        for name, value in load(file).items()
        if isinstance(value, type) and issubclass(value, unittest.TestCase)
    }
    for name, case in found.items():
        for test, fault in known.get(name, {}).items():
            mark = pytest.mark.xfail(
                reason=fault.reason, raises=fault.raises, strict=True
            )
            setattr(case, test, mark(getattr(case, test)))
    return found


def tests(case: type[unittest.TestCase]) -> list[str]:
    """Returns the names of a class's tests."""
    return list(unittest.defaultTestLoader.getTestCaseNames(case))
