"""What a forward pass changed, for the optimizer that skips the step.

Kept on the graph of the `tf.function` that both are traced into, and so by no
one else: a forward pass in another function, or run eagerly, is not undone.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class Notes:
    """Values of variables before a step: the first note holds."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[keras.Variable, tf.Tensor]] = {}
        self.taken = False

    def undo(self) -> None:
        """Gives the variables the values they had."""
        for variable, before in self.values.values():
            variable.assign(before)


def remember(variable: keras.Variable, before: tf.Tensor) -> None:
    """Notes the value that a variable has before the step."""
    if tf.inside_function():
        notes = _of_graph()
        if notes.taken:  # by the step before, in the same function
            notes = _of_graph(new=True)
        notes.values.setdefault(id(variable), (variable, before))


def take() -> Notes:
    """Returns the notes of this step; each replica asks for the same."""
    notes = _of_graph() if tf.inside_function() else Notes()
    notes.taken = True
    return notes


def _of_graph(new: bool = False) -> Notes:
    graph: Any = tf.compat.v1.get_default_graph()
    if new or not hasattr(graph, "tfmp_notes"):
        graph.tfmp_notes = Notes()
    found: Notes = graph.tfmp_notes
    return found
