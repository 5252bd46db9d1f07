"""Has optimizers and compiled programs follow a conversion."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp._keras import compile_arguments
from tfmp.conversion import programs
from tfmp.conversion.records import flatten
from tfmp.layers.float8_state import states_of
from tfmp.optimizers import LossScaleOptimizer, automatic

BOUNDED = (
    "Keras' LossScaleOptimizer is now tfmp's, around the same optimizer: it "
    "keeps the windows of FP8, skips what FP8 saturates, and has bounds"
)

SCALED = (
    "a layer computes in float16: the optimizer is now inside a "
    "tfmp.optimizers.LossScaleOptimizer, which scales the loss"
)


def follow(model: keras.Model) -> list[str]:
    """Tells optimizers of the FP8 state, and has programs traced again.

    Those of the model, and of all others that hold one of its layers.

    Args:
        model: a model or layer, converted or reverted; compiled or not.

    Returns:
        What the user should know.
    """
    layers = list(flatten(model).values())
    notes = []
    for each in programs.holders(layers):
        with each.distribute_strategy.scope():
            notes += _follow_optimizer(each)
            programs.drop(each)
    programs.warn_of_stale(layers)
    return list(dict.fromkeys(notes))


def _follow_optimizer(model: keras.Model) -> list[str]:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return []
    if isinstance(optimizer, LossScaleOptimizer):
        if optimizer.built:
            optimizer.rebuild(model.trainable_variables)
    elif isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        if optimizer.built and states_of(model.trainable_variables):
            _replace(model, _bounded(optimizer))
            return [BOUNDED]
    elif _lacks_loss_scale(model):
        _replace(model, {"inner_optimizer": optimizer})
        return [SCALED]
    return []


def _bounded(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Returns the arguments of an optimizer of tfmp in place of Keras'."""
    scale = float(tf.convert_to_tensor(optimizer.dynamic_scale))
    return {
        "inner_optimizer": optimizer.inner_optimizer,
        "initial_scale": min(2.0**24, max(1.0, scale)),  # Keras has no bounds
        "growth_steps": optimizer.dynamic_growth_steps,
    }


def _replace(model: keras.Model, arguments: dict[str, Any]) -> None:
    """Gives a model an optimizer of tfmp that scales the loss."""
    with model.distribute_strategy.scope():
        optimizer = LossScaleOptimizer(**arguments)
        if optimizer.inner_optimizer.built:
            optimizer.build(model.trainable_variables)
    model.optimizer = optimizer
    compile_arguments.remember(model, optimizer=optimizer)


def _lacks_loss_scale(model: keras.Model) -> bool:
    asked = (compile_arguments.given(model) or {}).get("auto_scale_loss")
    if asked is False or automatic.scaling(model.optimizer):
        return False
    return automatic.needs_loss_scale(model)


def retrace(model: keras.Model) -> None:
    """Has programs traced again, of all models that hold a layer of one."""
    for each in programs.holders(flatten(model).values()):
        with each.distribute_strategy.scope():
            programs.drop(each)
