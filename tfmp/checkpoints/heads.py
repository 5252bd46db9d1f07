"""What the head of a weights file says, checked before anything is loaded.

{"notes": {...}, "layers": ["net/dense", ...],
 "seeds": [[dtype, shape, base64], ...], "metrics": [...]}
"""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfmp._support import plain_values

ARRAYS = ("seeds", "metrics")


def encode(group: Sequence[keras.Variable]) -> list[list[Any]]:
    """Returns the values of variables, as `decode` reads them."""
    values = [np.array(variable.numpy()) for variable in group]
    return [
        [v.dtype.name, v.shape, base64.b64encode(v.tobytes()).decode()]
        for v in values
    ]


def decode(saved: Sequence[Any]) -> list[np.ndarray]:
    """Returns the values that `encode` was given.

    Raises:
        TypeError, ValueError: if it is not what that returned.
    """
    return [
        np.frombuffer(base64.b64decode(data, validate=True), dtype).reshape(
            [int(length) for length in shape]
        )
        for dtype, shape, data in saved
    ]


def checked(head: Any, path: pathlib.Path) -> dict[str, Any]:
    """Returns the head, with the arrays that it holds.

    Raises:
        ValueError: if it is not one that `save_weights` wrote.
    """
    try:
        if not isinstance(head, dict):
            raise TypeError("it is no dictionary")
        found = {"notes": {}, "layers": [], **head}
        if not isinstance(found["notes"], dict):
            raise TypeError("`notes` is no dictionary")
        layers = found["layers"]
        if not isinstance(layers, list) or not all(
            isinstance(name, str) for name in layers
        ):
            raise TypeError("`layers` is no list of names")
        return found | {name: decode(found.get(name, [])) for name in ARRAYS}
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            "`path` must be a file that `tfmp.checkpoints.save_weights` wrote, "
            f"but its head is not one ({plain_values.shortened(error)}). "
            f"Received: {str(path)!r}"
        ) from error


def fits(values: Sequence[np.ndarray], ours: Sequence[Any]) -> bool:
    """Whether values have the dtypes and shapes of variables."""
    theirs = [(str(v.dtype), v.shape) for v in values]
    return theirs == [(str(v.dtype), tuple(v.shape)) for v in ours]
