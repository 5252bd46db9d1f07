"""A layer's place in functional models: how often, after and before whom.

Keras keeps the nodes of a layer to itself.  A conversion asks what a layer's
inputs come from and how often its products run.  `tests/test_kept_inputs.py`
and `tests/test_traced_reports.py` tell.
"""

from __future__ import annotations

import keras


def calls(layer: keras.Layer) -> int:
    """Returns how often a functional model calls a layer; else 1."""
    return max(1, len(layer._inbound_nodes))


def reversed_calls(layer: keras.Layer) -> int:
    """Returns how often a functional model calls with `reverse=True`."""
    calls = [node.arguments.kwargs for node in layer._inbound_nodes]
    return sum(bool(arguments.get("reverse")) for arguments in calls)


def takes_sparse(layer: keras.Layer) -> bool:
    """Whether a layer is called on a sparse tensor, or was."""
    symbols = [x for node in layer._inbound_nodes for x in node.input_tensors]
    given = any(getattr(x, "sparse", False) for x in symbols)
    return given or getattr(layer, "takes_sparse", False)


def before(layer: keras.Layer) -> list[keras.Operation]:
    """Returns what a functional model has right before a layer."""
    symbols = [x for node in layer._inbound_nodes for x in node.input_tensors]
    return [x._keras_history.operation for x in symbols]


def behind(layer: keras.Layer) -> list[keras.Operation]:
    """Returns what a functional model has right behind a layer."""
    return [node.operation for node in layer._outbound_nodes]
