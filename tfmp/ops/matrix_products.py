"""`einsum` and `matmul` on FP8 operands."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfmp._core import equations
from tfmp._support import checks
from tfmp.ops import broadcasting, operand_arguments, passes


def einsum(
    equation: str,
    a: Any,
    b: Any,
    *,
    recipe: Any = None,
    amax: Any = None,
) -> tf.Tensor:
    """Contracts two tensors on FP8 operands, with FP8 gradients.

        y = einsum(equation, q(a * sa), q(b * sb)) / (sa * sb)

    and the gradients of `a` and `b` by the same rule from `q(dy * sdy)`.  NaN
    stays NaN; an infinite value counts as the format's largest.

    Args:
        equation: einsum of two operands; every label is shared, summed over
            in both, or kept in the result.  Ellipses broadcast, also where a
            graph does not know their lengths.
        a: the activation, role `"inputs"`: float32, bfloat16 or float16.
        b: the weight, role `"kernel"`: of any of these dtypes.
        recipe: a `tfmp.recipes` recipe or preset name; by default
            `CurrentScaling()`, or `DelayedScaling()` if `amax` is given.
        amax: float32 of shape `[3]`, for delayed scaling: the amax to assume
            for `a`, `b` and the gradient of the result; zero means not
            observed yet: a prior, or for `b` its own.  Its gradient is the
            amax observed in this step.  Or a `tfmp.ops.Pass`, which also
            says whether this is training, and takes a probe.

    Returns:
        Tensor of the dtype of `a`.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if the equation cannot be expressed as one product or does
            not fit, or if `recipe` needs `amax` and there is none.

    Source: arXiv 2209.05433, section 2 (scaling factors a tensor).

    >>> from tfmp.ops import sqnr
    >>> x = tf.random.stateless_normal([4, 2, 8], seed=[0, 1])
    >>> w = tf.random.stateless_normal([8, 3], seed=[0, 2])
    >>> y = einsum("...a,ab->...b", x, w)
    >>> bool(sqnr(tf.einsum("...a,ab->...b", x, w), y) > 20)
    True
    """
    run = passes.of(amax)
    a, b = operand_arguments.operand("a", a), run.kernel("b", b)
    parsed = equations.parse(equation, a.shape.as_list(), b.shape.as_list())
    recipe = passes.recipe_of(run, recipe)
    a, b = broadcasting.broadcast(a, b, parsed.repeat)
    return run.contract(
        parsed.contraction,
        _squeeze(a, parsed.lhs_squeeze),
        _squeeze(b, parsed.rhs_squeeze),
        recipe,
    )


def matmul(
    a: Any,
    b: Any,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    recipe: Any = None,
    amax: Any = None,
) -> tf.Tensor:
    """Multiplies matrices on FP8 operands, with FP8 gradients.

        y = q(a * sa) @ q(b * sb) / (sa * sb)

    NaN stays NaN; an infinite value counts as the format's largest.

    Args:
        a: the activation, of shape `[..., m, k]`, or `[..., k, m]` with
            `transpose_a`: float32, bfloat16 or float16.
        b: the weight, of shape `[..., k, n]`, or `[..., n, k]` with
            `transpose_b`.  Leading axes broadcast as those of `tf.matmul`.
        transpose_a: whether `a` holds its matrices transposed.
        transpose_b: whether `b` does.
        recipe: see `einsum`.
        amax: see `einsum`.

    Returns:
        Tensor of the dtype of `a` and of shape `[..., m, n]`.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if the shapes do not fit, or if `recipe` needs `amax` and
            there is none.

    >>> amax = tf.Variable([0.0, 0.0, 0.0])
    >>> x, w = tf.ones([2, 4]), tf.fill([4, 3], 0.5)
    >>> with tf.GradientTape() as tape:
    ...     loss = tf.reduce_sum(matmul(x, w, amax=amax))
    >>> tape.gradient(loss, amax).numpy().tolist()
    [1.0, 0.5, 1.0]
    """
    a, b = operand_arguments.operand("a", a), operand_arguments.operand("b", b)
    equation = equations.matmul(
        a.shape.rank,
        b.shape.rank,
        checks.boolean("transpose_a", transpose_a),
        checks.boolean("transpose_b", transpose_b),
    )
    return einsum(equation, a, b, recipe=recipe, amax=amax)


def _squeeze(x: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
    return tf.squeeze(x, axes) if axes else x
