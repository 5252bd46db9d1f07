"""What a change of precision changes in a model, to be given back."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfmp._keras import class_and_policy, compile_arguments
from tfmp._keras.kept_values import KeptValues
from tfmp.conversion import training_update
from tfmp.conversion.records import Record, flatten, record_of
from tfmp.optimizers import LossScaleOptimizer


class Structure:
    """Classes, policies, FP8 state and optimizer of a model, at one moment.

    Everything else, weights and slots among it, a change of precision leaves
    alone.  `Snapshot` holds that too.

    Args:
        model: any Keras model, compiled or not.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._layers = [_Layer(layer) for layer in flatten(model).values()]
        self._optimizer: Any = getattr(model, "optimizer", None)
        self._arguments = compile_arguments.given(model)
        state = [x.variable for x in self._layers if x.variable is not None]
        self._values = KeptValues(model, state)
        history = getattr(self._optimizer, "amax_history", None)
        self._history = (
            None if history is None else KeptValues(model, [history])
        )

    @property
    def is_present(self) -> bool:
        """Whether the model has it still, whatever its variables hold."""
        if getattr(self._model, "optimizer", None) is not self._optimizer:
            return False
        return all(each.is_present for each in self._layers)

    def restore(self) -> None:
        """Gives it back, bit for bit; a step that differs is traced anew."""
        if not self.is_present:
            with self._model.distribute_strategy.scope():
                self._give_back()
        self._values.restore()
        if self._history is not None:
            self._history.restore(onto=[self._optimizer.amax_history])

    def _give_back(self) -> None:
        for each in self._layers:
            each.give_back()
        model, optimizer = self._model, self._optimizer
        if model.optimizer is not optimizer:
            model.optimizer = optimizer
        if self._arguments is not None:
            given = self._arguments.get("optimizer")
            compile_arguments.remember(model, optimizer=given)
        if isinstance(optimizer, LossScaleOptimizer) and optimizer.built:
            optimizer.rebuild(model.trainable_variables)
        training_update.retrace(model)


class _Layer:
    """One layer as it was."""

    def __init__(self, layer: keras.Layer) -> None:
        self._layer, self._class = layer, type(layer)
        self._policy, self._autocast = layer.dtype_policy, layer.autocast
        self._record = _copy(record_of(layer))
        self._state = getattr(layer, "float8", None)
        self._recipe = getattr(self._state, "recipe", None)

    @property
    def variable(self) -> Any:
        """That of its FP8 state, also of an idle one."""
        return None if self._state is None else self._state.variable

    @property
    def is_present(self) -> bool:
        """Whether the layer is so still."""
        return vars(_Layer(self._layer)) == vars(self)

    def give_back(self) -> None:
        """Makes the layer what it was, but for the values of variables."""
        layer = self._layer
        added = getattr(layer, "float8", None) is not self._state
        if added:
            class_and_policy.drop_float8(layer)
        if self._state is not None:
            self._state.recipe = self._recipe
        class_and_policy.assign(layer, self._policy, self._class)
        layer.autocast = self._autocast
        if self._record is not None:
            layer.tfmp_record = _copy(self._record)
        elif record_of(layer) is not None:
            del layer.tfmp_record


def _copy(record: Record | None) -> Record | None:
    return None if record is None else dataclasses.replace(record)
