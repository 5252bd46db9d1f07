"""A second training step that measures what the first one only runs."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfmp import recipes
from tfmp._core import probes, statistics
from tfmp._keras.training_pass import attribute
from tfmp._monitoring.operators import operators
from tfmp._monitoring.train_functions import standing
from tfmp.optimizers import LossScaleOptimizer
from tfmp.optimizers.lost_updates import UpdateProbe


class Measurement(NamedTuple):
    """What one sampled step, or execution, was measured to do.

    Attributes:
        values: `<operator>/<role>/<statistic>`, and those of the optimizer.
        histograms: lowest exponent and counts, by `<operator>/<role>`.
        in_vain: whether there are operators, and none of them was measured.
    """

    values: dict[str, float]
    histograms: dict[str, tuple[int, list[int]]]
    in_vain: bool = False


class MeasuredStep:
    """Stands before a model's `train_function`, and measures when armed.

    A step that is not measured is run by the function that Keras has made,
    untouched.  For the others Keras makes a second one of the same
    `train_step`; the layers have probes while it is traced.

    Invariants: one armed call is one measured execution; the model's layers
    have probes only during one.  Of several that stand one before the other,
    all that are armed measure the same execution, and in one function.

    Args:
        model: within `fit`, built.
        elements: see `Probe`.

    Attributes:
        inner: the function that it stands before.
        has_run: whether an execution was measured and not described yet.
    """

    def __init__(self, model: keras.Model, elements: int | None) -> None:
        self._model = model
        self.inner: Any = model.train_function
        self._functions: dict[tuple[MeasuredStep, ...], Callable[..., Any]] = {}
        self._armed = self.has_run = False
        self._operators = operators(model)
        with model.distribute_strategy.scope():
            self._probes = {n: probes.Probe(elements) for n in self._operators}
            self._updates = _update_probe(model, elements)

    def fits(self) -> bool:
        """Whether it measures all that is in the model's function by now.

        What was changed in the model is in its function when that is made
        anew; layers that the first steps have built are in it at once.
        """
        removed = self._model.train_function == self.inner
        if not (removed or self._stands_before()):
            return False
        return operators(self._model).keys() <= self._operators.keys()

    def arm(self) -> None:
        """Says that the next execution is to be measured."""
        self._armed = bool(self._operators or self._updates)
        self._model.make_train_function()  # outside of `fit` there may be none
        if self._armed and not self._stands_before():
            self.inner = self._model.train_function
            self._model.train_function = self._dispatch

    def remove(self) -> None:
        """Gives the model its function back, unless another stands before."""
        if self._model.train_function == self._dispatch:
            self._model.train_function = self.inner

    def _stands_before(self) -> bool:
        """Whether the model's function leads here, also through others."""
        return self in standing(self._model.train_function)

    def reading(self) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """Returns what was measured last, and forgets it, in a graph."""
        every, updates = list(self._probes.values()), self._updates
        return (
            probes.reading(every) if every else None,
            None if updates is None else updates.reading(),
        )

    def described(
        self, vectors: np.ndarray | None, updates: np.ndarray | None
    ) -> Measurement:
        """Returns in numbers by name what `reading` returned.

        It is empty if no execution was measured since.
        """
        found = Measurement({}, {})
        if not self.has_run:
            return found
        self.has_run = False
        read = [] if vectors is None else probes.arrays(vectors)
        for (name, operator), by_role in zip(
            self._operators.items(), read, strict=True
        ):
            for role, vector in by_role.items():
                where = f"{name}/{role}"
                _describe(found, where, role, operator.recipe, vector)
        if updates is not None:
            share = UpdateProbe.share(updates)
            found.values["lost_updates_share"] = share
        in_vain = bool(self._operators) and not found.histograms
        return found._replace(in_vain=in_vain)

    def _dispatch(self, iterator: Any) -> Any:
        if not self._armed:
            return self.inner(iterator)
        behind = list(standing(self.inner))
        for each in behind:
            if hasattr(each, "watched"):
                iterator = each.watched(iterator)
        steps = [each for each in behind if isinstance(each, MeasuredStep)]
        armed = (self, *(each for each in steps if each._armed))
        if armed not in self._functions:
            self._functions[armed] = self._another_function()
        with contextlib.ExitStack() as probing:
            for each in armed:
                probing.enter_context(each._probing())
            results = self._functions[armed](iterator)
        for each in armed:
            each._armed, each.has_run = False, True
        return results

    def _another_function(self) -> Callable[..., Any]:
        there = self._model.train_function
        self._model.make_train_function(force=True)
        another, self._model.train_function = self._model.train_function, there
        found: Callable[..., Any] = another
        return found

    @contextlib.contextmanager
    def _probing(self) -> Iterator[None]:
        by_layer: dict[int, dict[str, probes.Probe]] = {}
        for path, (layer, name, _) in self._operators.items():
            own = by_layer.setdefault(id(layer), {})
            there = layer.float8_probes.get(name)
            own[name] = probes.joined(there, self._probes[path])
        with contextlib.ExitStack() as stack:
            for layer, _, _ in self._operators.values():
                fixed = types.MappingProxyType(by_layer[id(layer)])
                stack.enter_context(attribute(layer, "float8_probes", fixed))
            if self._updates is not None:
                optimizer: Any = self._model.optimizer
                every = (*optimizer.update_probes, self._updates)
                stack.enter_context(
                    attribute(optimizer, "update_probes", every)
                )
            yield


def _update_probe(
    model: keras.Model, elements: int | None
) -> UpdateProbe | None:
    """Returns a probe if an update of the model can be lost to rounding."""
    ours = isinstance(model.optimizer, LossScaleOptimizer)
    low = any(map(UpdateProbe.concerns, model.trainable_variables))
    return UpdateProbe(elements) if ours and low else None


def _describe(
    found: Measurement,
    name: str,
    role: str,
    recipe: recipes.Recipe,
    vector: np.ndarray,
) -> None:
    described = statistics.describe(vector, recipe.format(role))
    if not described:
        return
    if not recipe.is_delayed(role):
        del described["lag"]
    found.values.update({f"{name}/{k}": v for k, v in described.items()})
    found.histograms[name] = statistics.histogram(vector)
