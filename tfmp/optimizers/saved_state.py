"""Which variable of an optimizer each entry of a saved file belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# What Keras' LossScaleOptimizer has of its own, in this order.
KERAS = ("iteration", "learning_rate", "step_counter", "dynamic_scale")


def pairs(
    optimizer: Any, store: Any, fit: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[Any, np.ndarray]] | None:
    """Pairs an optimizer's variables with what a file has for them.

    Args:
        optimizer: a `tfmp.optimizers.LossScaleOptimizer` that is built.
        store: arrays by the decimal number of the variable, as Keras saves
            them: of such an optimizer, of Keras' `LossScaleOptimizer`, or of
            the inner optimizer alone.
        fit: brings an `amax_history` to the length of the optimizer's.

    Returns:
        (variable, array) pairs, None if the file is of none of these.

    Raises:
        ValueError: if an array has another shape than its variable.
    """
    inner = optimizer.inner_optimizer.variables
    own = optimizer.variables[: len(optimizer.variables) - len(inner)]
    by_name = {v.name: v for v in own}
    for kind in (own, [by_name[name] for name in KERAS], []):
        targets = [*kind, *inner]
        if len(targets) == len(store.keys()):
            arrays = [np.asarray(store[str(i)]) for i in range(len(targets))]
            if kind is own:
                # In older files it is before the counter of steps.
                ranks = [array.ndim for array in arrays[: len(own)]]
                history = arrays.pop(ranks.index(3) if 3 in ranks else -1)
                arrays.insert(len(own) - 1, fit(history))
            found = list(zip(targets, arrays, strict=True))
            _check_shapes(found)
            return found
    return None


def _check_shapes(found: list[tuple[Any, np.ndarray]]) -> None:
    for variable, array in found:
        if array.shape != tuple(variable.shape):
            raise ValueError(
                f"the optimizer's variable '{variable.path}' must have the "
                f"shape {tuple(variable.shape)} in the file. "
                f"Received: {array.shape}"
            )
