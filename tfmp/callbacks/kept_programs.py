"""Compiled steps of precisions that come back, kept while one `fit` lasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from tfmp import checkpoints, policies
from tfmp._keras import internals
from tfmp._monitoring.train_functions import standing
from tfmp._switching.switch import Wanted, switch
from tfmp.conversion.records import flatten

NAMES = ("train_function", "test_function")
SIMPLE = bool | int | float | str | None


class Signature(NamedTuple):
    """What the trace of a step depends on.

    Attributes:
        values: what is compared by value.
        objects: what is compared by identity, and is kept so that no other
            object gets its place in memory.
    """

    values: Any
    objects: list[Any]

    def equals(self, other: Signature) -> bool:
        """Whether a step that was traced under one is right under the other."""
        return self.values == other.values and (
            list(map(id, self.objects)) == list(map(id, other.objects))
        )


def signature(model: keras.Model) -> Signature:
    """Returns what a trace of the model's step depends on now.

    That are the class, policy and FP8 state of each layer, and all of its
    attributes that are numbers or texts; all variables; what `compile` was
    given, and the numbers and texts of the optimizers.
    """
    layers = [model, *flatten(model).values()]
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    arguments = internals.compile_arguments(model) or {}
    owners = [*layers, optimizer, inner]
    options = model.jit_compile, model.run_eagerly, model.steps_per_execution
    values = options, [_simple(each) for each in owners]
    objects = [*owners, *map(type, owners), *arguments.values()]
    objects += checkpoints.variables(model)
    return Signature((values, [_precision(x) for x in layers]), objects)


class KeptPrograms:
    """Gives a model back the step that it had in the same precision.

    Invariant: a step is kept only if nothing that its trace depends on has
    changed since it was traced, and comes back only if all is so again.

    Args:
        most: precisions whose steps are kept, the newest ones.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.empty()

    def empty(self) -> None:
        """Forgets all; the next change traces the step."""
        self._traced: Signature | None = None
        self._kept: list[tuple[Signature, dict[str, Any]]] = []

    def step_ended(self, model: keras.Model) -> None:
        """Notes what the step depends on, if it may just have been traced."""
        if self._most and self._traced is None:
            self._traced = signature(model)

    def switch(self, model: keras.Model, wanted: Mapping[str, Wanted]) -> None:
        """Changes a model as `switch` does.

        Args:
            model: built.
            wanted: by path.
        """
        traced, self._traced = self._traced, None
        if traced is not None and traced.equals(signature(model)):
            self._kept.append((traced, _functions(model)))
        switch(model, wanted)
        now = signature(model) if self._kept else None
        for each in list(self._kept):
            if now is not None and each[0].equals(now):
                self._kept.remove(each)
                vars(model).update(each[1])
        del self._kept[: max(0, len(self._kept) - self._most)]


def _functions(model: keras.Model) -> dict[str, Any]:
    """Returns what Keras has made, without what callbacks stand before it."""
    return {name: _bare(getattr(model, name)) for name in NAMES}


def _bare(function: Any) -> Any:
    for each in standing(function):
        if hasattr(each, "remove"):  # as callbacks do when they end
            function = each.inner
    return function


def _simple(owner: Any) -> dict[str, Any]:
    """Returns an object's attributes that a trace may hold as constants."""
    return {
        name: value
        for name, value in getattr(owner, "__dict__", {}).items()
        if isinstance(value, SIMPLE) and name not in NAMES
    }


def _precision(layer: Any) -> tuple[Any, ...]:
    policy = policies.policy_at(layer.dtype_policy, layer.path)
    state = getattr(layer, "float8", None)
    return (
        keras.dtype_policies.serialize(policy),
        layer.autocast,
        layer.trainable,
        id(state),
        getattr(state, "recipe", None),
    )
