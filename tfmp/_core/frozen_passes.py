"""A product with a kernel of FP8 bytes, for inference alone.

    y = q(inputs * inputs_scale) @ kernel / (inputs_scale * kernel_scale)

It is the product that an FP8 layer has in inference, bit for bit, where the
scales are the same.  The kernel is neither looked at nor quantized.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfmp import recipes
from tfmp._core import (
    contractions,
    float8_passes,
    product_scales,
    quantization,
    scaling,
    stablehlo,
)


def contract(
    contraction: float8_passes.Bilinear,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recipe: recipes.Float8Recipe,
    kernel_scale: tf.Tensor,
    inputs_scale: tf.Tensor | None,
) -> tf.Tensor:
    """Contracts inputs and a frozen kernel.

    Args:
        contraction: what multiplies both.
        inputs: float32, bfloat16 or float16 tensor.
        kernel: uint8, the bytes of the recipe's format of kernels.
        recipe: the formats, and whether the output is an FP8 product; if not,
            as where a GPU has no kernel for a length, it is one of the
            kernel's values in the dtype of the inputs.
        kernel_scale: that the kernel was quantized by, float32 scalar.
        inputs_scale: the same of the inputs; None for that of their own amax.

    Returns:
        Tensor of the dtype of `inputs`, which has no gradient.
    """
    shapes = (*inputs.shape, *kernel.shape)
    run = _compiled(contraction, recipe, inputs.dtype, shapes)
    # Eager mode would look for the gradients of what runs in there.
    inputs = tf.stop_gradient(inputs)
    found: tf.Tensor = run(inputs, kernel, kernel_scale, inputs_scale)
    return found


class Program(float8_passes.Program):
    """The forward pass of a contraction whose kernel is frozen."""

    def frozen(
        self,
        inputs: tf.Tensor,
        kernel: tf.Tensor,
        kernel_scale: tf.Tensor,
        inputs_scale: tf.Tensor | None,
    ) -> tf.Tensor:
        """Multiplies; see `contract`."""
        target = tf.as_dtype(self.recipe.format("kernel").dtype)
        low = stablehlo.bitcast(kernel, target)
        if self.recipe.in_float8("output"):
            lhs, known = self._quantized(inputs, kernel_scale, inputs_scale)
            rhs = float8_passes.Operand(low, kernel_scale)
        else:
            known = product_scales.Scales({}, {})
            wide = quantization.dequantize(low, kernel_scale)
            lhs = float8_passes.Operand(inputs)
            rhs = float8_passes.Operand(tf.cast(wide, inputs.dtype))
        return self.product("output", lhs, rhs, inputs.dtype, known)

    def _quantized(
        self,
        inputs: tf.Tensor,
        kernel_scale: tf.Tensor,
        inputs_scale: tf.Tensor | None,
    ) -> tuple[float8_passes.Operand, product_scales.Scales]:
        """Returns the FP8 operand of the inputs, and all scales."""
        amax = tf.constant(0.0)
        if inputs_scale is None:
            amax, target = scaling.amax(inputs), self.recipe.format("inputs")
            inputs_scale = scaling.exp2(
                scaling.scale_exponent(amax, target, self.recipe.margin)
            )
        known = product_scales.of_powers(
            {"inputs": inputs_scale, "kernel": kernel_scale},
            self.factor_dtype(inputs.dtype),
        )
        low, _ = self.quantize("inputs", inputs, {"inputs": amax}, known)
        return low, known


@functools.lru_cache(maxsize=4096)
def _compiled(
    contraction: Any, recipe: Any, dtype: tf.DType, shapes: tuple[Any, ...]
) -> Callable[..., tf.Tensor]:
    # By `shapes`: a trace for unknown lengths would serve known, and lose them.
    program = Program(contraction, recipe, training=False, kernel_dtype=dtype)
    return contractions.on_xla(program.frozen)
