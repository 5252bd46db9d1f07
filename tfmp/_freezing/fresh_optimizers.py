"""New optimizers for models whose kernels have become other variables."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from tfmp._keras import compile_arguments
from tfmp.conversion import programs


def replace(layers: Iterable[keras.Layer]) -> None:
    """Gives models that hold one of the layers optimizers of the variables now.

    What is built knows the kernels that are gone, and keeps their moments.

    Args:
        layers: whose variables have changed.
    """
    for model in programs.holders(layers):
        before = getattr(model, "optimizer", None)
        if before is None or not before.built:
            continue
        with model.distribute_strategy.scope():
            optimizer = type(before).from_config(before.get_config())
            optimizer.build(model.trainable_variables)
            optimizer.iterations.assign(before.iterations)
        model.optimizer = optimizer
        compile_arguments.remember(model, optimizer=optimizer)
