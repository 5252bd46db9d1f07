"""What the trace of a model's step depends on, noted to be compared."""

from __future__ import annotations

import hashlib
import types
from typing import Any

import keras
import numpy as np

from tfmp import checkpoints, policies
from tfmp._keras import compile_arguments, step_undo
from tfmp.conversion.records import flatten

SIMPLE = (bool, int, float, complex, str, bytes, type(None))
LISTS = (list, tuple, set, frozenset)
# What Keras and tfmp note beside; no step reads it when it is traced.
NOT_TRACED = (
    "_eval_epoch_iterator",
    "_former",
    "_tracked",
    "stop_evaluating",
    "stop_training",
    "test_function",
    "train_function",
)
# Objects of these packages are compared by identity, but for these of Keras.
LIBRARIES = ("builtins", "inspect", "keras", "tensorflow", "tfmp")
OPENED = (
    keras.Layer,
    keras.Loss,
    keras.Metric,
    keras.constraints.Constraint,
    keras.initializers.Initializer,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.regularizers.Regularizer,
)
FUNCTIONS = (
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.ModuleType,
    np.ufunc,
)


class Signature:
    """What the trace of a step depends on, at one moment.

    Numbers, texts, arrays and containers are noted by value, in the
    attributes of the model, its layers, what `compile` was given, and all
    objects that these hold.  Functions, variables and objects of libraries
    are noted by identity, and kept so that no other object gets their place
    in memory.  What cannot be compared is unequal to all.

    Args:
        model: built.
    """

    def __init__(self, model: keras.Model) -> None:
        self._objects: dict[int, Any] = {}
        self._within: set[int] = set()
        self._waiting: list[Any] = []
        layers = [model, *flatten(model).values()]
        roots = [
            layers,
            model.optimizer,
            compile_arguments.given(model),
            checkpoints.variables(model),
        ]
        values = [self._noted(roots), [_precision(each) for each in layers]]
        while self._waiting:
            values.append(self._attributes(self._waiting.pop()))
        self._values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def _noted(self, value: Any) -> Any:
        """Returns what is equal if, and only if, the value is as it was."""
        if isinstance(value, keras.DTypePolicy):
            return "policy", str(keras.dtype_policies.serialize(value))
        if type(value) in SIMPLE:
            return type(value), repr(value)
        if isinstance(value, np.ndarray | np.generic):
            return _noted_array(np.asarray(value))
        if not isinstance(value, (dict, *LISTS)):
            return self._noted_object(value)
        if id(value) in self._within:
            return object()
        self._within.add(id(value))
        parts = value.items() if isinstance(value, dict) else value
        order = frozenset if isinstance(value, set | frozenset) else tuple
        noted = order(self._noted(each) for each in parts)
        self._within.remove(id(value))
        return self._identity(type(value)), noted

    def _noted_object(self, value: Any) -> Any:
        if isinstance(value, step_undo.Notes):
            return "notes"  # of the step that was traced last
        is_new = id(value) not in self._objects
        identity = self._identity(value)
        library = type(value).__module__.split(".")[0] in LIBRARIES
        if isinstance(value, FUNCTIONS) or (
            library and not isinstance(value, OPENED)
        ):
            return identity
        if not hasattr(value, "__dict__"):
            return object()
        if is_new:
            self._waiting.append(value)
        return identity

    def _attributes(self, owner: Any) -> Any:
        held = [
            (name, self._noted(each))
            for name, each in sorted(vars(owner).items())
            if not (isinstance(owner, OPENED) and _is_beside(name))
        ]
        return self._identity(type(owner)), held

    def _identity(self, value: Any) -> int:
        self._objects[id(value)] = value
        return id(value)


def _is_beside(name: str) -> bool:
    return name in NOT_TRACED or name.startswith("_self_")


def _noted_array(array: np.ndarray) -> Any:
    if array.dtype.hasobject:
        return object()
    digest = hashlib.sha256(array.tobytes()).digest()
    return array.dtype.str, array.shape, digest


def _precision(layer: keras.Layer) -> tuple[Any, ...]:
    """Returns what properties say that are not among the attributes."""
    policy = policies.of_layer(layer)
    state = getattr(layer, "float8", None)
    return (
        str(keras.dtype_policies.serialize(policy)),
        layer.autocast,
        layer.trainable,
        id(state),
        getattr(state, "recipe", None),
    )
