"""Optimizers that keep the loss scale and the FP8 state."""

from tfmp.optimizers.automatic import install
from tfmp.optimizers.loss_scale import LossScaleOptimizer

__all__ = ["LossScaleOptimizer"]

# Models of any maker are compiled by Keras: this is where float16 is seen.
install()
