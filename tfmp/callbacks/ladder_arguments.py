"""The arguments of `AdaptivePrecision` that say who goes where, checked."""

from __future__ import annotations

from typing import Any

import keras

from tfmp import policies
from tfmp._support import checks
from tfmp._switching import precisions


def checked_ladder(ladder: Any) -> list[keras.DTypePolicy]:
    """Returns the policies of a ladder, from low to high.

    Raises:
        TypeError, ValueError: if it has not two policies or more, each once,
            and none with fewer bits than the one before; or if one emulates
            a format, of which a step measures nothing.
    """
    said = "a list of two policies or more, from low to high"
    kinds = str | dict | keras.DTypePolicy
    given = checks.sequence("ladder", ladder, kinds, said)
    found = [
        precisions.checked_policy(f"ladder[{i}]", policy)
        for i, policy in enumerate(given)
    ]
    widths = [precisions.bits(policy) for policy in found]
    labels = [precisions.label(policy) for policy in found]
    for policy in found:
        if policies.emulates(policy):
            raise ValueError(
                "`ladder` must not have emulated formats: a step measures "
                f"nothing of them. Received: {labels}"
            )
    twice = len(set(labels)) < len(labels)
    if len(found) < 2 or twice or widths != sorted(widths):
        raise ValueError(f"`ladder` must be {said}. Received: {labels}")
    return found


def checked_patterns(layers: Any) -> list[str] | None:
    """Returns patterns of paths, None for all layers.

    Raises:
        TypeError, ValueError: if they are no such list, or it is empty.
    """
    if layers is None:
        return None
    said = "a list of patterns of paths, or None"
    given = checks.sequence("layers", layers, str, said)
    if not given:
        raise ValueError(f"`layers` must be {said}. Received: {layers!r}")
    precisions.checked("layers", dict.fromkeys(given, "float32"))
    return given
