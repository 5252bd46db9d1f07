"""Takes the scales of both operands out of a product again.

    y = product / (lhs_scale * rhs_scale)

The scales are powers of two, and so is the factor that does it.  A GPU's
library multiplies by one factor while it writes the product.  Where both
tensors are tiny, or both huge, one factor is beyond float32's normal range,
and the result need not be: products of FP8 values are large.  A GPU computes
with a subnormal factor, a CPU takes it for zero.  So a CPU multiplies twice:

    y = product * 2**-h * 2**-(e - h)      lhs_scale * rhs_scale = 2**e
                                           h = floor(e / 2)

Each factor is a normal number, for any two scales.  Both make larger, or both
smaller, so that what is between them is in range wherever `y` is.
"""

from __future__ import annotations

import tensorflow as tf

from tfmp._core import stablehlo

# Exponents as float32 has them: 127 more, above 23 bits that are zero here.
MODULE = f"""\
module @tfmp {{
  func.func public @main({stablehlo.PLATFORM}%factor: tensor<f32>,
      %lhs: tensor<f32>, %rhs: tensor<f32>) -> (tensor<f32>, tensor<f32>) {{
    %first, %second = "stablehlo.case"(%platform) ({{
      %width = stablehlo.constant dense<23> : tensor<i32>
      %one = stablehlo.constant dense<1> : tensor<i32>
      %zero = stablehlo.constant dense<254> : tensor<i32>
      %a = stablehlo.bitcast_convert %lhs : (tensor<f32>) -> tensor<i32>
      %b = stablehlo.bitcast_convert %rhs : (tensor<f32>) -> tensor<i32>
      %i = stablehlo.shift_right_logical %a, %width : tensor<i32>
      %j = stablehlo.shift_right_logical %b, %width : tensor<i32>
      %sum = stablehlo.add %i, %j : tensor<i32>
      %half = stablehlo.shift_right_logical %sum, %one : tensor<i32>
      %rest = stablehlo.subtract %sum, %half : tensor<i32>
      %m = stablehlo.subtract %zero, %half : tensor<i32>
      %n = stablehlo.subtract %zero, %rest : tensor<i32>
      %c = stablehlo.shift_left %m, %width : tensor<i32>
      %d = stablehlo.shift_left %n, %width : tensor<i32>
      %x = stablehlo.bitcast_convert %c : (tensor<i32>) -> tensor<f32>
      %y = stablehlo.bitcast_convert %d : (tensor<i32>) -> tensor<f32>
      stablehlo.return %x, %y : tensor<f32>, tensor<f32>
    }}, {{
      %none = stablehlo.constant dense<1.0> : tensor<f32>
      stablehlo.return %factor, %none : tensor<f32>, tensor<f32>
    }}) : (tensor<i32>) -> (tensor<f32>, tensor<f32>)
    return %first, %second : tensor<f32>, tensor<f32>
  }}
}}
"""


def unscaled(
    product: tf.Tensor,
    factor: tf.Tensor,
    lhs_scale: tf.Tensor,
    rhs_scale: tf.Tensor,
) -> tf.Tensor:
    """Returns `product / (lhs_scale * rhs_scale)`, of the product's dtype.

    Args:
        product: bfloat16 or float32 tensor.
        factor: scalar, `1 / (lhs_scale * rhs_scale)` as one number.
        lhs_scale: float32 scalar, a power of two from 2**-126 to 2**126.
        rhs_scale: the same.
    """
    given = [tf.cast(factor, tf.float32), lhs_scale, rhs_scale]
    for each in stablehlo.run(MODULE, given, [(tf.float32, [])] * 2):
        product *= tf.cast(each, product.dtype)
    return product
