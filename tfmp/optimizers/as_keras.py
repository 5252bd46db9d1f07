"""What a `LossScaleOptimizer` has of its base, and Keras' callers look for."""

from __future__ import annotations

import copy
from typing import Any

import keras


class AsKeras(keras.mixed_precision.LossScaleOptimizer):
    """Keras' class, whose inner optimizer may be a `MultiOptimizer`."""

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The parts of a `MultiOptimizer` inside; no other has any.

        Keras' callbacks read and change the learning rate of each.
        """
        found: list[keras.optimizers.Optimizer] = (
            self.inner_optimizer.optimizers
        )
        return found

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> Any:
        """Rebuilds the optimizer from `get_config()`, also from Keras'."""
        config = copy.deepcopy(config)  # Keras writes into it
        return super().from_config(config, custom_objects=custom_objects)
