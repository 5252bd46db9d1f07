"""The names under which XLA's programs know products and layers.

TensorFlow hands XLA the name of each operation, with its name scopes and
those of the functions around it, and XLA keeps it up to the compiled program.
So a product says in a scope of its own which it is, a gradient runs under the
name of what it is the gradient of, and who wants to find a layer again calls
it in a scope with its number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

GRADIENT = "gradient_tape/"  # as TensorFlow names the gradients it writes
LAYER = re.compile(r"tfmp\.layer\.(\d+)/")
PRODUCT = re.compile(r"tfmp\.(output|input_grad|kernel_grad)/")
HIDDEN = re.compile(r"(?:Stateful)?PartitionedCall(?:_\d+)?/")


def product(name: str) -> Any:
    """Returns the scope in which one of the three products is written."""
    return tf.name_scope(f"tfmp.{name}")


def layer(number: int) -> Any:
    """Returns the scope of a layer's call: of the innermost one only."""
    return tf.name_scope(f"tfmp.layer.{number}/")


def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has a gradient run under the name of the scope it is defined in.

    TensorFlow does so for its own gradients, and not for custom ones.
    """
    scope = tf.get_current_name_scope()
    name = f"{GRADIENT}{scope}/" if scope else GRADIENT

    @functools.wraps(function)
    def named(*args: Any) -> Any:
        with tf.name_scope(name):
            return function(*args)

    return named


def layer_of(name: str) -> int | None:
    """Returns the number of the layer that an operation belongs to.

    >>> layer_of("gradient_tape/tfmp.layer.7/MatMul/MatMul_1")
    7
    """
    found = LAYER.findall(name)
    return int(found[-1]) if found else None


def scope_of(name: str) -> str:
    """Returns the name scope of what an operation computes, or is for.

    >>> scope_of("gradient_tape/net/dense/MatMul/MatMul_1")
    'net/dense'
    """
    is_tape = GRADIENT in name
    name = HIDDEN.sub("", name.split(GRADIENT)[-1])
    written = PRODUCT.search(name)
    if written:
        return name[: written.start()].rstrip("/")
    parts = name.split("/")
    return "/".join(parts[: -2 if is_tape else -1])


def is_written(name: str) -> bool:
    """Whether an operation is, or is of, one of the three products of tfmp."""
    return PRODUCT.search(name) is not None


def product_of(name: str, gradient_of: str = "") -> str:
    """Returns which of a layer's three products an operation is.

    Args:
        name: of the operation.
        gradient_of: `"lhs"` or `"rhs"` if it says that it is the gradient of
            one of two factors, else "".

    Returns:
        `"output"`, `"input_grad"` or `"kernel_grad"`; "" if that is not known.

    >>> product_of("gradient_tape/tfmp.layer.7/Conv2D/Conv2DBackpropFilter")
    'kernel_grad'
    >>> product_of("tfmp.layer.7/MatMul")
    'output'
    """
    written = PRODUCT.findall(name)
    if written:
        found: str = written[-1]
        return found
    last = name.rpartition("/")[2]
    if gradient_of == "lhs" or "BackpropInput" in last:
        return "input_grad"
    if gradient_of == "rhs" or "BackpropFilter" in last:
        return "kernel_grad"
    if GRADIENT not in name and "gradients/" not in name:
        return "output"
    # The gradient of an einsum is two: of the first factor, of the second.
    einsum = {"Einsum": "input_grad", "Einsum_1": "kernel_grad"}
    return einsum.get(last, "")
