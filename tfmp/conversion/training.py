"""Has a compiled model's optimizer and train step follow a conversion."""

from __future__ import annotations

from typing import Any

import keras

from tfmp import internals
from tfmp.layers.state import is_amax
from tfmp.optimizers import LossScaleOptimizer

WRAPPED = (
    "the optimizer was built for other variables and now is inside a "
    "tfmp.optimizers.LossScaleOptimizer; its state is kept"
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
        return LossScaleOptimizer(
            optimizer.inner_optimizer,
            initial_scale=max(1.0, float(optimizer.dynamic_scale)),
            growth_steps=optimizer.dynamic_growth_steps,
        )
    return LossScaleOptimizer(optimizer, initial_scale=1.0, dynamic=False)


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
    if isinstance(optimizer, LossScaleOptimizer) and optimizer.built:
        optimizer.rebuild(variables)
    elif wrapped is not None and any(map(is_amax, variables)):
        wrapped.build(variables)
        arguments = internals.compile_arguments(model)
        model.compile(**{**(arguments or {}), "optimizer": wrapped})
        notes.append(WRAPPED)
    retrace(model)
    return notes


def retrace(model: Any) -> None:
    """Has the compiled functions that exist traced again, at their next use."""
    for kind in ("train", "test", "predict"):
        if getattr(model, f"{kind}_function", None) is not None:
            getattr(model, f"make_{kind}_function")(force=True)
