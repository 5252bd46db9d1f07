"""Gradients that are finite, and too large for a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfmp.debug.findings import TooLarge
from tfmp.optimizers.gradients import limit

Where = tuple[str, str, str]


def too_large(
    gradients: Iterable[tuple[Where, Any]], scale: float
) -> TooLarge | None:
    """Returns the largest gradient, if an optimizer would skip the step.

    Args:
        gradients: of the scaled loss, all of a model, each with the weight's
            name, its layer and the layer's class; finite.
        scale: what the loss was multiplied by.
    """
    dense = [(where, getattr(g, "values", g), g) for where, g in gradients]
    dense = [each for each in dense if tf.size(each[1])]
    if not dense:
        return None
    sizes = [float(tf.reduce_max(tf.abs(values))) for _, values, _ in dense]
    largest = max(sizes)
    where, _, gradient = dense[sizes.index(largest)]
    bound = float(limit([values for _, values, _ in dense]))
    if largest / scale < bound:
        return None
    return TooLarge(
        "gradient of weight",
        *where,
        tuple(map(int, gradient.shape)),
        gradient.dtype.name,
        largest / scale,
        bound,
    )
