"""Optimizers that keep the loss scale and the FP8 state."""

from tfmp.optimizers.gradients import map_gradients
from tfmp.optimizers.loss_scale import LossScaleOptimizer

__all__ = ["LossScaleOptimizer", "map_gradients"]
