"""Keras' own tests, from the installed wheel, of tfmp's classes."""

from __future__ import annotations

import builtins
import importlib.util
import pathlib
import types
import unittest
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import pytest

import tfmp
from tfmp import policies
from tfmp.layers.classes import OURS

STANDS_FOR: list[tuple[Any, Any]] = [
    *OURS.items(),
    (keras.optimizers.LossScaleOptimizer, tfmp.optimizers.LossScaleOptimizer),
    (keras.callbacks.BackupAndRestore, tfmp.callbacks.BackupAndRestore),
    (keras.DTypePolicy, tfmp.Policy),
    (keras.dtype_policies.get, policies.get),
]


class Replaced(types.ModuleType):
    """A module of Keras, in which tfmp's objects stand for Keras' own.

    Args:
        module: the module; those inside it are replaced too.
        stands_for: pairs of an object and what is found in its place.
    """

    def __init__(
        self, module: types.ModuleType, stands_for: list[tuple[Any, Any]]
    ) -> None:
        super().__init__(module.__name__)
        self._module, self._stands_for = module, stands_for

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if isinstance(found, types.ModuleType):
            ours = found.__name__.startswith("keras.")
            return Replaced(found, self._stands_for) if ours else found
        for stock, instead in self._stands_for:
            if found is stock:
                return instead
        return found


def load(
    path: str, stands_for: list[tuple[Any, Any]] = STANDS_FOR
) -> types.ModuleType:
    """Runs a test module of Keras, whose imports from Keras are replaced.

    Args:
        path: below `keras.src`, such as `layers.core.dense_test`.
        stands_for: as of `Replaced`.

    Raises:
        ModuleNotFoundError: if the wheel does not ship it.
    """
    name = f"keras.src.{path}"
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)

    def replacing(name: str, *args: Any, **kwargs: Any) -> Any:
        module = builtins.__import__(name, *args, **kwargs)
        if module.__name__.partition(".")[0] == "keras":
            return Replaced(module, stands_for)
        return module

    module = types.ModuleType(f"keras_suite.{path}")
    module.__file__ = spec.origin
    names = {**vars(builtins), "__import__": replacing}
    vars(module)["__builtins__"] = names
    code = compile(pathlib.Path(spec.origin).read_text(), spec.origin, "exec")
    exec(code, vars(module))
    return module
