"""`tf.custom_gradient` whose gradients go when their graph does.

Of each call in a graph TensorFlow registers the gradient under a name of its
own, for ever, and with it all tensors of the graph: a program that was dropped
stays, 2 to 12 MiB for a few small layers.  Here the register gets a function
that asks for the gradient by that name, and the graph holds the gradient.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

ATTRIBUTE = "_gradient_op_type"


class _Held:
    """A gradient, as long as its graph is there."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


_HELD: weakref.WeakValueDictionary[str, _Held] = weakref.WeakValueDictionary()


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates as `tf.custom_gradient` does.

    Args:
        function: returns its results, and a function from their gradients to
            those of the arguments.
    """
    decorated = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        """Calls, and has the gradients freed with their graph."""
        result = decorated(*args, **kwargs)
        if not tf.executing_eagerly():
            _hand_over(tf.nest.flatten(result))
        return result

    return call


def release() -> None:
    """Hands over the gradients of all other calls, as those of Keras' own.

    What holds a program that was dropped is then gone.
    """
    for name, entry in list(gradient_registry._registry.items()):
        if name.startswith("CustomGradient-"):
            graph = _graph_of(entry["type"])
            if graph is not None:
                _give(graph, name, entry)


def _hand_over(results: list[Any]) -> None:
    """Gives the gradient that was registered to the graph of the results."""
    for x in results:
        operation = getattr(x, "op", None)
        if operation is not None and operation.type == "IdentityN":
            name = operation.get_attr(ATTRIBUTE).decode()
            _give(operation.graph, name, gradient_registry._registry[name])
            return


def _give(graph: Any, name: str, entry: dict[str, Any]) -> None:
    held = _HELD[name] = _Held(entry["type"])
    entry["type"] = functools.partial(_gradient, name)
    graph.tfmp_gradients = [*getattr(graph, "tfmp_gradients", ()), held]


def _graph_of(registered: Any) -> Any:
    """Returns the graph that TensorFlow's gradient function holds, or None."""
    for name in ("tape_grad_fn", "result"):
        code = getattr(registered, "__code__", None)
        if code is None or name not in code.co_freevars:
            return None
        cell = registered.__closure__[code.co_freevars.index(name)]
        registered = cell.cell_contents
    graphs = [getattr(x, "graph", None) for x in tf.nest.flatten(registered)]
    return next((graph for graph in graphs if graph is not None), None)


def _gradient(name: str, operation: Any, *grads: Any) -> Any:
    held = _HELD.get(name)
    if held is None:
        raise LookupError(
            f"The graph is gone that holds the gradient {name}: trace it again."
        )
    return held.function(operation, *grads)
