"""The forward and the backward pass of a contraction on emulated operands.

    y = e(x) . e(w)     dx = e(dy) . e(w)     dw = e(x) . e(dy)

where `e` gives each operand the values that its format would have in that
product, in float32: blocks lie along the axes that the product sums over, so
that an operand differs between products.  Products of the few bits that such
values have are exact in float32; what is added up is rounded as in float32.

Of a convolution, blocks of the first two products lie along the channels that
are summed over, within their group, and not across the window; of the kernel
gradient along batch and positions.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tfmp import formats, recipes
from tfmp._core import (
    bit_rounding,
    convolutions,
    emulation,
    equations,
    op_names,
    stablehlo,
    statistics,
    windows,
)

Product = equations.Contraction | windows.Window


class Side(NamedTuple):
    """How the blocks of an operand lie.

    Attributes:
        axes: along which, of the tensor.
        groups: that the first of them falls into.
    """

    axes: tuple[int, ...]
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """The forward and backward pass of one kind of contraction.

    Attributes:
        contraction: what is multiplied.
        recipe: formats and rounding of the roles.
        kernel_dtype: of the kernel, and of its gradient.
    """

    contraction: equations.Contraction | convolutions.Convolution
    recipe: recipes.Emulated
    kernel_dtype: tf.DType

    def forward(
        self, inputs: tf.Tensor, kernel: tf.Tensor, amax: tf.Tensor
    ) -> tuple[tf.Tensor, Any, list[statistics.Seen]]:
        """Returns the result, what backward needs, and nothing observed."""
        saved = {"inputs": inputs, "kernel": kernel}
        result = self.product("output", saved, inputs.dtype)
        return result, saved, [statistics.Seen(tf.constant(0.0))] * 2

    def backward(
        self, upstream: tf.Tensor, saved: Any, amax: tf.Tensor, observed: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, None]:
        """Returns the gradients of inputs and kernel; nothing observed."""
        values = {**saved, "grads": upstream}
        d_inputs = self.product("input_grad", values, upstream.dtype)
        d_kernel = self.product("kernel_grad", values, self.kernel_dtype)
        gradients = map(tf.stop_gradient, (d_inputs, d_kernel))
        return *gradients, tf.zeros_like(amax), None

    def product(
        self, name: str, values: dict[str, tf.Tensor], dtype: tf.DType
    ) -> tf.Tensor:
        """Emulates the operands, multiplies them and orders the axes."""
        product = self.contraction.product(name)
        compute = values["inputs"].dtype
        pairs = zip(recipes.OPERANDS[name], sides(product), strict=True)
        if self.recipe.lowers(name):
            lhs, rhs = (self.emulated(r, values[r], side) for r, side in pairs)
        else:
            wide = [tf.cast(values[role], compute) for role, _ in pairs]
            lhs, rhs = (tf.cast(x, tf.float32) for x in wide)
        with op_names.product(name):
            result = stablehlo.multiply(product, lhs, rhs, tf.float32, True)
        result = tf.transpose(result, product.permutation)
        return tf.cast(result, dtype)

    def emulated(self, role: str, x: tf.Tensor, side: Side) -> tf.Tensor:
        """Returns the values that a role's tensor has in its format."""
        target = self.recipe.format(role)
        rounding = self.recipe.rounding_of(role)
        low = emulation.emulate(
            _in_groups(x, side),
            target,
            scale=emulation.current_scale(x, target),
            axis=tuple(axis + (side.groups > 1) for axis in side.axes),
            rounding=rounding,
            # A tensor's own scale leaves nothing to clip but infinities.
            saturate=isinstance(target, formats.BlockFormat),
            seed=self.seed(role, x) if rounding == "stochastic" else None,
        )
        low = tf.reshape(low, tf.shape(x))
        low.set_shape(x.shape)
        return low

    def seed(self, role: str, x: tf.Tensor) -> tf.Tensor:
        """Returns a seed that follows from the recipe's and the values."""
        own = self.recipe.seed * len(recipes.ROLES) + recipes.ROLES.index(role)
        return tf.stack([own, tf.reduce_sum(bit_rounding.bits_of(x))])


def sides(product: Product) -> tuple[Side, Side]:
    """Returns how the blocks of both operands lie."""
    if isinstance(product, equations.Contraction):
        lhs, rhs = product.contracting_axes
        return Side(lhs), Side(rhs)
    within = product.spatial if product.widen else ""
    groups = product.feature_groups
    return (
        Side(tuple(map(product.lhs.index, "f" + within)), groups),
        Side(
            tuple(map(product.rhs.index, "i" + within)),
            groups if product.reverse else 1,
        ),
    )


def _in_groups(x: tf.Tensor, side: Side) -> tf.Tensor:
    """Gives the groups of an axis an axis of their own, before it."""
    if side.groups == 1:
        return x
    (axis,) = side.axes
    shape = tf.unstack(tf.shape(x))
    each = shape[axis] // side.groups
    return tf.reshape(x, [*shape[:axis], side.groups, each, *shape[axis + 1 :]])
