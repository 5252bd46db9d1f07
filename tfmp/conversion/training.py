"""Has a compiled model's optimizer and train step follow a conversion."""

from __future__ import annotations

from typing import Any

from tfmp import internals
from tfmp.optimizers import LossScaleOptimizer, automatic, executions

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
    elif _lacks_loss_scale(model):
        _scale_loss(model)
        notes.append(SCALED)
    executions.watch(model)
    retrace(model)
    return notes


def _scale_loss(model: Any) -> None:
    """Puts the optimizer inside one of tfmp that scales the loss."""
    with model.distribute_strategy.scope():
        optimizer = LossScaleOptimizer(model.optimizer)
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
