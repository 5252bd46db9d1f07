"""A function as an accelerator gets it, on a machine that has none.

A product of FP8 operands is written once for CPUs and once for all others;
which one a program has is settled when TensorFlow lowers it.  TensorFlow
lowers for a platform that is not here, but no function that reads variables.
Such a function is copied with the platforms reversed, so that lowering it for
the CPU gives what others get.

The import of TensorFlow's context is private: functions are known to it by
name, and no public call makes a copied one known.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

MODULE = "XlaCallModule"
SUFFIX = "_for_others"


@contextlib.contextmanager
def for_accelerators(concrete: Any) -> Iterator[Any]:
    """Yields a copy of a function, which can be lowered, not run.

    Args:
        concrete: a `tf.types.experimental.ConcreteFunction` of flat tensors.

    Yields:
        A `tf.function` that XLA compiles, of the same arguments.
    """
    graph = concrete.graph.as_graph_def()
    _reverse_platforms(graph)
    _rename_functions(graph)
    inputs = [tensor.name for tensor in concrete.inputs]
    given = {name.partition(":")[0] for name in inputs}
    kept = [node for node in graph.node if node.name not in given]
    del graph.node[:]
    graph.node.extend(kept)
    outputs = [tensor.name for tensor in concrete.outputs]

    def call(*tensors: tf.Tensor) -> list[tf.Tensor]:
        """Runs the graph on tensors, with what it captured."""
        within: Any = tf.compat.v1.get_default_graph()
        captured = map(within.capture, concrete.captured_inputs)
        values = dict(zip(inputs, (*tensors, *captured), strict=True))
        found: list[tf.Tensor] = tf.graph_util.import_graph_def(
            graph, input_map=values, return_elements=outputs, name=""
        )
        return found

    known: Any = context.context()
    for function in graph.library.function:
        known.add_function_def(function)
    try:
        yield tf.function(call, jit_compile=True, autograph=False)
    finally:
        for function in graph.library.function:
            known.remove_function(function.signature.name)


def _nodes(graph: Any) -> Iterator[Any]:
    bodies = (function.node_def for function in graph.library.function)
    return itertools.chain(graph.node, *bodies)


def _reverse_platforms(graph: Any) -> None:
    for node in _nodes(graph):
        if node.op == MODULE:
            platforms = node.attr["platforms"].list
            platforms.s[:] = list(reversed(platforms.s))


def _rename_functions(graph: Any) -> None:
    """The names are taken, by the functions of the original."""
    names = {f.signature.name for f in graph.library.function}
    for function in graph.library.function:
        function.signature.name += SUFFIX
    for node in _nodes(graph):
        if node.op in names:
            node.op += SUFFIX
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in names:
                    called.name += SUFFIX
    for gradient in graph.library.gradient:
        gradient.function_name += SUFFIX
        gradient.gradient_func += SUFFIX
