"""Has a compiled model's optimizer and train step follow a conversion."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp import internals
from tfmp.layers.state import states_of
from tfmp.optimizers import LossScaleOptimizer, automatic

BOUNDED = (
    "Keras' LossScaleOptimizer is now tfmp's, around the same optimizer: it "
    "keeps the windows of FP8, skips what FP8 saturates, and has bounds"
)

SCALED = (
    "a layer computes in float16: the optimizer now is inside a "
    "tfmp.optimizers.LossScaleOptimizer, which scales the loss"
)


def follow(model: Any) -> list[str]:
    """Tells a compiled model's optimizer of the FP8 state, and retraces.

    Args:
        model: converted or reverted; compiled or not.

    Returns:
        What the user should know.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return []
    notes = []
    if isinstance(optimizer, LossScaleOptimizer):
        if optimizer.built:
            optimizer.rebuild(model.trainable_variables)
    elif isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        if optimizer.built and states_of(model.trainable_variables):
            _replace(model, _bounded(optimizer))
            notes.append(BOUNDED)
    elif _lacks_loss_scale(model):
        _replace(model, {"inner_optimizer": optimizer})
        notes.append(SCALED)
    retrace(model)
    return notes


def _bounded(optimizer: Any) -> dict[str, Any]:
    """Returns the arguments of an optimizer of tfmp in place of Keras'."""
    scale = float(tf.convert_to_tensor(optimizer.dynamic_scale))
    return {
        "inner_optimizer": optimizer.inner_optimizer,
        "initial_scale": min(2.0**24, max(1.0, scale)),  # Keras has no bounds
        "growth_steps": optimizer.dynamic_growth_steps,
    }


def _replace(model: Any, arguments: dict[str, Any]) -> None:
    """Gives a model an optimizer of tfmp that scales the loss."""
    with model.distribute_strategy.scope():
        optimizer = LossScaleOptimizer(**arguments)
        if optimizer.inner_optimizer.built:
            optimizer.build(model.trainable_variables)
    model.optimizer = optimizer
    internals.remember_compiled(model, optimizer=optimizer)


def _lacks_loss_scale(model: Any) -> bool:
    asked = (internals.compile_arguments(model) or {}).get("auto_scale_loss")
    if asked is False or automatic.scaling(model.optimizer):
        return False
    return automatic.needs_loss_scale(model)


def retrace(model: Any) -> None:
    """Has the compiled functions that exist traced again, at their next use."""
    for kind in ("train", "test", "predict"):
        if getattr(model, f"{kind}_function", None) is not None:
            getattr(model, f"make_{kind}_function")(force=True)
