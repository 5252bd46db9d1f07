"""Calls Python from inside of a training step, where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

LOCAL = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)


def call_if(
    condition: tf.Tensor,
    function: Callable[..., None],
    arguments: Callable[[], list[tf.Tensor]],
) -> None:
    """Calls a Python function when a step finds the condition to be true.

    Nothing is called in a function that XLA compiles, nor under a strategy
    that may run the step on another machine.

    Args:
        condition: bool scalar.
        function: of eager tensors.  TensorFlow keeps it for as long as the
            process runs, and with it what it refers to.
        arguments: returns what to call it with.
    """
    if tf.executing_eagerly():
        if condition:
            function(*arguments())
    elif not compiled_by_xla() and _is_local(tf.distribute.get_strategy()):
        tf.cond(
            condition,
            lambda: tf.py_function(function, arguments(), []),
            tf.no_op,
        )


def compiled_by_xla() -> bool:
    """Whether what is being traced will be compiled by XLA.

    >>> seen = []
    >>> for jit_compile in (True, False):
    ...     function = tf.function(
    ...         lambda: seen.append(compiled_by_xla()), jit_compile=jit_compile
    ...     )
    ...     function()
    >>> seen
    [True, False]
    """
    graph: Any = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


def _is_local(strategy: tf.distribute.Strategy) -> bool:
    return not tf.distribute.has_strategy() or isinstance(strategy, LOCAL)
