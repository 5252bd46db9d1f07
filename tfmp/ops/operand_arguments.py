"""The operands of the operators, checked."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfmp._core import contractions, scaling


def operand(name: str, x: Any) -> tf.Tensor:
    """Converts an argument to a tensor that a product can take.

    Raises:
        TypeError: if it does not convert, or has no compute dtype.
        ValueError: if its rank is unknown.
    """
    x = scaling.as_tensor(name, x)
    if x.dtype not in contractions.COMPUTE_DTYPES:
        allowed = ", ".join(d.name for d in contractions.COMPUTE_DTYPES)
        raise TypeError(
            f"`{name}` must be of dtype {allowed}. "
            f"Received: dtype {x.dtype.name}"
        )
    if x.shape.rank is None:
        raise ValueError(
            f"`{name}` must have a known rank; lengths may be unknown. "
            f"Received: shape {x.shape}"
        )
    return x
