"""The loss of one execution, which Keras adds to the mean of the epoch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

NAME = "step_loss"  # beside Keras' own logs


class StepLoss:
    """Takes the loss of one execution out of the mean that Keras keeps.

    Keras' metric has the sum of the losses, weighted by examples, and the sum
    of the weights; the loss is what the execution adds to one over what it
    adds to the other.  Both are float32 sums over the epoch: after a million
    batches the loss of one is known to a few percent, and after a loss that is
    not finite those of its epoch are unknown.

    Args:
        model: that is trained.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._before: Any = None

    def begin(self) -> None:
        """Notes where the mean is."""
        self._before = self._sums()

    def end(self) -> dict[str, float]:
        """Returns the loss since `begin` by its name, nothing if unknown."""
        before, self._before = self._before, None
        after = None if before is None else self._sums()
        if after is None or not np.isfinite(before).all():
            return {}
        added, weights = after - before
        return {NAME: float(added / weights)} if weights > 0 else {}

    def _sums(self) -> Any:
        for metric in self._model.metrics:
            if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
                both = metric.total, metric.count
                sums = map(keras.ops.convert_to_numpy, both)
                return np.array([*sums], np.float64)
        return None
