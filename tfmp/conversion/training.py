"""Has a compiled model's optimizer and train step follow a conversion."""

from __future__ import annotations

from typing import Any

import keras

from tfmp import internals
from tfmp.layers.state import is_amax
from tfmp.optimizers import LossScaleOptimizer, automatic

WRAPPED = (
    "the optimizer is inside a LossScaleOptimizer now, which keeps the FP8 "
    "state; its own state is as it was"
)

SCALED = (
    "a layer computes in float16: the optimizer now is inside a "
    "tfmp.optimizers.LossScaleOptimizer, which scales the loss"
)


def follower(model: keras.Layer) -> LossScaleOptimizer | None:
    """Returns the optimizer that a compiled model needs after a conversion.

    None if it can keep the one it has: a Keras optimizer that is built cannot
    take new variables; one that is not, or one of tfmp, can.

    Raises:
        ValueError: if the model's optimizer scales the loss by itself.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return None
    if isinstance(optimizer, LossScaleOptimizer):
        return None
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = float(optimizer.dynamic_scale)  # anything: Keras has no bounds
        return _around(
            model,
            optimizer.inner_optimizer,
            initial_scale=min(2.0**24, max(1.0, scale)),
            growth_steps=optimizer.dynamic_growth_steps,
        )
    return _around(model, optimizer, initial_scale=1.0, dynamic=False)


def _around(model: Any, inner: Any, **settings: Any) -> LossScaleOptimizer:
    with model.distribute_strategy.scope():
        return LossScaleOptimizer(inner, **settings)


def follow(model: Any, wrapped: LossScaleOptimizer | None) -> list[str]:
    """Tells a compiled model's optimizer of the FP8 state, and retraces.

    Args:
        model: converted or reverted; compiled or not.
        wrapped: what `follower` gave before.

    Returns:
        What the user should know.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return []
    variables, notes = model.trainable_variables, []
    if isinstance(optimizer, LossScaleOptimizer):
        if optimizer.built:
            optimizer.rebuild(variables)
    elif _lacks_loss_scale(model):
        _replace(model, _around(model, optimizer))
        notes.append(SCALED)
    elif wrapped is not None and any(map(is_amax, variables)):
        _replace(model, wrapped)
        notes.append(WRAPPED)
    retrace(model)
    return notes


def _replace(model: Any, optimizer: LossScaleOptimizer) -> None:
    if optimizer.inner_optimizer.built:
        with model.distribute_strategy.scope():
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
