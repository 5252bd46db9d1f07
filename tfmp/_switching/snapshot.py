"""All that a training goes on from, kept in memory."""

from __future__ import annotations

import keras

from tfmp import checkpoints
from tfmp._keras.kept_values import KeptValues
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
        every = [v for v in checkpoints.variables(model) if v is not history]
        self._values, self._metrics = (
            KeptValues(model, [v for v in every if (id(v) in metrics) is kind])
            for kind in (False, True)
        )

    def restore(self, epoch: int = 0) -> None:
        """Gives all of it back; in a later epoch, metrics start anew.

        Args:
            epoch: of the moment that goes back.
        """
        self._structure.restore()
        self._values.restore()
        if epoch == self._epoch:
            self._metrics.restore()
        else:
            self._model.reset_metrics()
