"""All that a training goes on from, kept in memory."""

from __future__ import annotations

import keras
import numpy as np

from tfmp import checkpoints
from tfmp._keras import replicas
from tfmp._switching.structure import Structure


class Snapshot:
    """A model's precision and every variable, to go back to bit for bit.

    That are weights, FP8 state and its windows, the optimizer with its slots,
    iteration and loss scale, seeds of random layers, and metrics; on each
    replica.  The values are copied to the memory of the host.

    Args:
        model: that is trained.
        epoch: of this moment: metrics are of an epoch.
    """

    def __init__(self, model: keras.Model, epoch: int = 0) -> None:
        self._model, self._epoch = model, epoch
        self._structure = Structure(model)
        # Of its shape `Structure` takes care: it follows the layers.
        history = getattr(model.optimizer, "amax_history", None)
        metrics = {id(v) for v in model.metrics_variables}
        self._values: list[tuple[keras.Variable, list[np.ndarray], bool]] = []
        for variable in checkpoints.variables(model):
            if variable is not history:
                parts = replicas.parts(model, variable)
                copies = [np.array(part.numpy()) for part in parts]
                self._values.append((variable, copies, id(variable) in metrics))

    def restore(self, epoch: int = 0) -> None:
        """Gives all of it back; in a later epoch, metrics start anew.

        Args:
            epoch: of the moment that goes back.
        """
        self._structure.restore()
        for variable, copies, is_metric in self._values:
            if is_metric and epoch != self._epoch:
                continue
            parts = replicas.parts(self._model, variable)
            for part, value in zip(parts, copies, strict=True):
                part.assign(value)
        if epoch != self._epoch:
            self._model.reset_metrics()
