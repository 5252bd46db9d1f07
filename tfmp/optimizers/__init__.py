"""Optimizers that keep the loss scale and the FP8 state."""

from tfmp._keras import first_use, worker_fit
from tfmp.optimizers import automatic, executions
from tfmp.optimizers.loss_scale import LossScaleOptimizer

__all__ = ["LossScaleOptimizer"]

# Models of any maker are compiled and trained by Keras: this is where float16
# is seen, what a step of theirs has skipped, and what workers need of `fit`.
first_use.on_first_use(automatic.install)
first_use.on_first_use(executions.install)
first_use.on_first_use(worker_fit.install)
