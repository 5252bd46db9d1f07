"""Few programs for many lengths: contractions outside of XLA, in whole steps.

Each contraction is a program that XLA compiles, and compiles once more for
every shape.  Where the model around it is compiled by XLA too, that is one and
the same compilation.  Where it is not, a batch of a new length would cost as
many compilations as the model has kinds of layers.  So there the leading axes
become one, of rows, and zeros are added up to the next of a few numbers, if
there is an axis behind the first whose length may be another in another step:

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
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tfmp import recipes
from tfmp._core import (
    contractions,
    equations,
    float8_passes,
    frozen_passes,
    probes,
)

STEPS = 8  # to a doubling
LEAST = 16  # rows of a step, the multiple that FP8 kernels of GPUs want
MOST_AT_LEAST = 128  # rows of a small product
SMALL = 2**23  # multiply-adds


def contract(
    contraction: float8_passes.Bilinear,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recipe: recipes.Recipe,
    amax: tf.Tensor,
    training: bool,
    probe: probes.Probe | None = None,
    take_in: Callable[[tf.Tensor], None] | None = None,
) -> tf.Tensor:
    """Contracts as `contractions.contract` does, with the same arguments.

    Outside of XLA programs are shared by many lengths.
    """

    def run(what: float8_passes.Bilinear, inputs: tf.Tensor) -> tf.Tensor:
        return contractions.contract(
            what, inputs, kernel, recipe, amax, training, probe, take_in
        )

    if probe is not None or recipe.emulates:
        return run(contraction, inputs)
    return in_steps(run, contraction, inputs, kernel.shape)


def contract_frozen(
    contraction: float8_passes.Bilinear,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recipe: recipes.Float8Recipe,
    kernel_scale: tf.Tensor,
    inputs_scale: tf.Tensor | None,
) -> tf.Tensor:
    """Contracts as `frozen_passes.contract` does, with the same arguments.

    Outside of XLA programs are shared by many lengths.
    """

    def run(what: float8_passes.Bilinear, inputs: tf.Tensor) -> tf.Tensor:
        return frozen_passes.contract(
            what, inputs, kernel, recipe, kernel_scale, inputs_scale
        )

    return in_steps(run, contraction, inputs, kernel.shape)


def in_steps(
    run: Callable[[float8_passes.Bilinear, tf.Tensor], tf.Tensor],
    contraction: float8_passes.Bilinear,
    inputs: tf.Tensor,
    kernel: tf.TensorShape,
) -> tf.Tensor:
    """Runs a contraction, outside of XLA on rows of one of a few numbers.

    Args:
        run: contracts inputs.
        contraction: what multiplies them and a kernel.
        inputs: as they are.
        kernel: its shape.
    """
    flat = None if is_compiled() else flattened(contraction)
    if flat is not None:
        leading = len(contraction.lhs) - len(flat.lhs) + 1  # type: ignore[attr-defined]
        if not _has_lengths(inputs.shape[:leading]):
            flat = None
    if flat is None or not kernel.is_fully_defined():
        return run(contraction, inputs)
    rest = tf.shape(inputs)[leading:]
    rows = tf.reshape(inputs, tf.concat([[-1], rest], 0))
    more, padded = _padded(rows, at_least(math.prod(kernel)))
    result = run(flat, padded)
    if more is not None:
        # Not a slice: the gradient of a split is copied whole, and is faster.
        result, _ = tf.split(result, [tf.shape(rows)[0], more])
    lengths = [tf.shape(inputs)[:leading], tf.shape(result)[1:]]
    result = tf.reshape(result, tf.concat(lengths, 0))
    result.set_shape([*inputs.shape[:leading], *result.shape[leading:]])
    return result


def _has_lengths(axes: tf.TensorShape) -> bool:
    """Whether axes may have other lengths in other steps.

    Of a graph for one batch nothing is known: it may be the first of many.
    """
    known = axes.is_fully_defined()
    return axes.rank > 1 and (not known or axes[0] is not None)


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
    found: int = -(-rows // step) * step
    return found


def _padded(x: tf.Tensor, least: int) -> tuple[Any, tf.Tensor]:
    """Returns how many rows of zeros are added, None for none; and all rows.

    A graph for one length has the programs of one for any.
    """
    open_shape = [None, *x.shape[1:]]
    if x.shape[0] is not None:
        more = rounded(x.shape[0], least) - x.shape[0]
        if not more:
            return None, _opened(x, open_shape)
        more = _opened(tf.constant(more), [])
    else:
        number = tf.shape(x)[0]
        step = tf.maximum(LEAST, _power_below(number - 1) // STEPS)
        more = tf.maximum(least, -(-number // step) * step) - number
    zeros = tf.zeros(tf.concat([[more], tf.shape(x)[1:]], 0), x.dtype)
    rows = tf.concat([x, zeros], 0)
    rows.set_shape(open_shape)
    return more, rows


def _opened(x: tf.Tensor, shape: list[int | None]) -> tf.Tensor:
    """Returns a tensor of which a graph knows no more than a shape."""
    if tf.executing_eagerly():
        return x
    return tf.raw_ops.PlaceholderWithDefault(input=x, shape=shape)


def _power_below(x: tf.Tensor) -> tf.Tensor:
    """Returns the largest power of two that is not above, of int32 from 1."""
    for shift in (1, 2, 4, 8, 16):
        x = tf.bitwise.bitwise_or(x, tf.bitwise.right_shift(x, shift))
    return x - tf.bitwise.right_shift(x, 1)
