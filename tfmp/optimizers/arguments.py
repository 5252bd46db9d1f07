"""Checks of what a `LossScaleOptimizer` is given."""

from __future__ import annotations

from typing import Any

import keras


def checked_variables(variables: Any) -> list[Any]:
    """Returns the variables as a list, if there are any."""
    if not variables:
        raise ValueError(
            "`trainable_variables` must be given unless the optimizer is "
            f"built. Received: {variables!r}"
        )
    return list(variables)


def checked_inner(inner: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer, also of a name, if one can be inside."""
    if isinstance(inner, str):
        inner = keras.optimizers.get(inner)
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise TypeError(
            "`inner_optimizer` must be a Keras optimizer or its name. "
            f"Received: {inner!r}"
        )
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "`inner_optimizer` must not be a LossScaleOptimizer: the loss "
            f"would be scaled twice. Received: {inner!r}"
        )
    if inner.loss_scale_factor is not None:
        raise ValueError(
            "`inner_optimizer` must not scale the loss: give `initial_scale` "
            "to LossScaleOptimizer instead. Received: loss_scale_factor="
            f"{inner.loss_scale_factor}"
        )
    return inner
