"""What a `LossScaleOptimizer` has of its base, and Keras' callers look for."""

from __future__ import annotations

import copy
from typing import Any

import keras

PAIRS = {  # and the names that old files have instead, with their defaults
    "factors": {"growth_factor": 2.0, "backoff_factor": 0.5},
    "bounds": {"min_scale": 1.0, "max_scale": 2.0**24},
}


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
        """Rebuilds the optimizer from `get_config()`, also from Keras'.

        Files of before have `growth_factor`, `backoff_factor`, `min_scale`
        and `max_scale`.
        """
        config = copy.deepcopy(config)  # Keras writes into it
        for pair, usual in PAIRS.items():
            if pair not in config and usual.keys() & config.keys():
                config[pair] = [config.pop(k, v) for k, v in usual.items()]
        return super().from_config(config, custom_objects=custom_objects)
