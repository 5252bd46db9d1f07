"""Few programs for many lengths: contractions outside of XLA, in whole steps.

Each contraction is a program that XLA compiles, and compiles once more for
every shape.  Where the model around it is compiled by XLA too, that is one and
the same compilation.  Where it is not, a batch of a new length would cost as
many compilations as the model has kinds of layers.  So there the leading axes
become one, of rows, and zeros are added up to the next of a few numbers:

    y = contract(pad(x.reshape(rows, ...)))[:rows].reshape(...)

Zero rows change neither an amax nor a product.  The numbers have eight steps
to a doubling, so that at most an eighth is added to what is large; to what is
small, more.

Not so: contractions whose two operands share their first axis, as scores in
attention; convolutions that are no product of matrices; emulated recipes; and
a step that is measured.  The import of `control_flow_util` is private.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tfmp import contractions, equations, passes, recipes

STEPS = 8  # to a doubling
LEAST = 16  # rows of a step, the multiple that FP8 kernels of GPUs want
MOST_AT_LEAST = 128  # rows of a small product
SMALL = 2**23  # multiply-adds


def contract(
    contraction: passes.Bilinear,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recipe: recipes.Recipe,
    amax: tf.Tensor,
    training: bool,
    probe: Any = None,
) -> tf.Tensor:
    """Contracts as `contractions.contract` does, with the same arguments.

    Outside of XLA programs are shared by many lengths.
    """
    flat = None
    if probe is None and not recipe.emulates and not is_compiled():
        flat = flattened(contraction)
    if flat is None or not kernel.shape.is_fully_defined():
        return contractions.contract(
            contraction, inputs, kernel, recipe, amax, training, probe
        )
    leading = len(contraction.lhs) - len(flat.lhs) + 1  # type: ignore[attr-defined]
    rest = tf.shape(inputs)[leading:]
    rows = tf.reshape(inputs, tf.concat([[-1], rest], 0))
    rows.set_shape([None, *inputs.shape[leading:]])
    least = at_least(math.prod(kernel.shape))
    padded, more = _padded(rows, least)
    result = contractions.contract(flat, padded, kernel, recipe, amax, training)
    # Not a slice: the gradient of a split is copied whole, and is faster.
    result, _ = tf.split(result, [tf.shape(rows)[0], more])
    lengths = [tf.shape(inputs)[:leading], tf.shape(result)[1:]]
    result = tf.reshape(result, tf.concat(lengths, 0))
    result.set_shape([*inputs.shape[:leading], *result.shape[leading:]])
    return result


def is_compiled() -> bool:
    """Whether what is traced now is part of a function that XLA compiles."""
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def flattened(contraction: Any) -> equations.Contraction | None:
    """Returns a contraction with its leading free axes as one, or None.

    >>> flattened(equations.Contraction("bti", "io", "bto"))
    Contraction(lhs='bi', rhs='io', out='bo')
    """
    if not isinstance(contraction, equations.Contraction):
        return None
    lhs, rhs, out = contraction.lhs, contraction.rhs, contraction.out
    count = 0
    while lhs[: count + 1] == out[: count + 1] and lhs[count] not in rhs:
        count += 1
        if count == len(lhs):
            break
    if not count:
        return None
    row = lhs[0]
    return equations.Contraction(row + lhs[count:], rhs, row + out[count:])


def at_least(size: int) -> int:
    """Returns the rows that a product is never less than.

    Args:
        size: of the kernel: multiply-adds a row.

    >>> at_least(64 * 64), at_least(4096 * 4096)
    (128, 16)
    """
    rows = MOST_AT_LEAST
    while rows > LEAST and rows * size > SMALL:
        rows //= 2
    return rows


def rounded(rows: int, least: int = LEAST) -> int:
    """Returns the number of rows that `rows` are brought to.

    >>> [rounded(n) for n in (1, 16, 17, 130, 1000, 1025)]
    [16, 16, 32, 144, 1024, 1152]
    """
    if rows <= least:
        return least
    step = max(LEAST, 2 ** ((rows - 1).bit_length() - 1) // STEPS)
    return -(-rows // step) * step


def _padded(x: tf.Tensor, least: int) -> tuple[tf.Tensor, Any]:
    """Returns `x` with rows of zeros, and how many these are."""
    number = x.shape[0]
    if number is None:
        number = tf.shape(x)[0]
        step = tf.maximum(LEAST, _power_below(number - 1) // STEPS)
        wanted = tf.maximum(least, -(-number // step) * step)
    else:
        wanted = rounded(number, least)
    more = tf.convert_to_tensor(wanted - number)
    if not tf.executing_eagerly():
        # A graph for one length then has the programs of one for any.
        more = tf.raw_ops.PlaceholderWithDefault(input=more, shape=[])
    zeros = tf.zeros(tf.concat([[more], tf.shape(x)[1:]], 0), x.dtype)
    return tf.concat([x, zeros], 0), more


def _power_below(x: tf.Tensor) -> tf.Tensor:
    """Returns the largest power of two that is not above, of int32 from 1."""
    for shift in (1, 2, 4, 8, 16):
        x = tf.bitwise.bitwise_or(x, tf.bitwise.right_shift(x, shift))
    return x - tf.bitwise.right_shift(x, 1)
