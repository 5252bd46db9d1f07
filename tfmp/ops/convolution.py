"""`conv` on FP8 operands."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp._core import float8_passes
from tfmp._core.convolutions import Convolution
from tfmp.ops import geometry, operand_arguments, passes


def conv(
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
    *,
    recipe: Any = None,
    amax: Any = None,
) -> tf.Tensor:
    """Convolves on FP8 operands, with FP8 gradients; 1, 2 or 3 dimensions.

        y = conv(q(inputs * sx), q(kernel * sw)) / (sx * sw)

    with the meaning of `keras.ops.conv`, groups included.  All operands are
    E4M3, gradients too, for a convolution has one format.  Some geometries
    have no FP8 kernel on a GPU; there, on every device, a product takes
    operands of the compute dtype: `convolutions.Convolution.float8_products`.
    With a kernel of one element and one group it is a product of matrices, of
    the inputs that the strides do not skip; all of it is in FP8.

    Args:
        inputs: the activation, of shape `[batch, *lengths, channels]`, or
            `[batch, channels, *lengths]` with `"channels_first"`: float32,
            bfloat16 or float16.  Lengths and batch may be unknown.
        kernel: the weight, of shape
            `[*kernel_size, channels / groups, filters]`: of any of these
            dtypes.
        strides: one integer, or one a spatial axis.
        padding: `"valid"`, `"same"` (TensorFlow's: of an odd number of zeros
            one more stands after) or, for one spatial axis, `"causal"` (all
            before).
        data_format: `"channels_last"` or `"channels_first"`; None for
            `keras.config.image_data_format()`.
        dilation_rate: like `strides`; above 1 only if these are 1.
        recipe: see `einsum`; its roles become E4M3.
        amax: see `einsum`.

    Returns:
        Tensor of the dtype of `inputs`.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument is not allowed, if the shapes do not fit or
            leave nothing, or if `recipe` needs `amax` and there is none.

    Source: arXiv 2209.05433, section 3 (E4M3 and E5M2).

    >>> x, w = tf.ones([2, 8, 8, 16]), tf.fill([3, 3, 16, 4], 0.25)
    >>> y = conv(x, w, padding="same")
    >>> y.shape.as_list(), float(y[0, 4, 4, 0])
    ([2, 8, 8, 4], 36.0)
    """
    run = passes.of(amax)
    recipe = passes.recipe_of(run, recipe).in_one_format()
    inputs = operand_arguments.operand("inputs", inputs)
    kernel = run.kernel("kernel", kernel)
    if data_format is None:
        data_format = keras.config.image_data_format()
    shape = kernel.shape.as_list()
    convolution = geometry.convolution(
        inputs.shape.as_list(),
        shape,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
    )
    what: float8_passes.Bilinear = convolution
    wide: tuple[str, ...] = ()
    at = 2 if convolution.channels_first else 1
    if convolution.pointwise:
        what = convolution.matrices
        kernel = tf.reshape(kernel, shape[-2:])
        inputs = _every(inputs, at, convolution.strides)
    else:
        inputs = _fit(inputs, at, convolution, padding)
        spatial = inputs.shape[at : at + len(convolution.kernel_size)]
        reasons = convolution.float8_products(spatial.as_list())
        wide = tuple(name for name, reason in reasons.items() if reason)
    recipe = recipe.keep_high_precision(() if recipe.emulates else wide)
    return run.contract(what, inputs, kernel, recipe)


def _every(x: tf.Tensor, at: int, strides: tuple[int, ...]) -> tf.Tensor:
    """Takes every second, third, ... element of the axes from `at` on."""
    if max(strides) == 1:
        return x
    return x[(slice(None),) * at + tuple(slice(None, None, n) for n in strides)]


def _fit(
    x: tf.Tensor, at: int, convolution: Convolution, padding: str
) -> tf.Tensor:
    """Brings axes of unknown length and a stride to a length without surplus.

    What an axis needs in padding depends on its length there.

    Args:
        x: the inputs.
        at: the first spatial axis.
        convolution: whose padding of these axes is zero.
        padding: what it is to be.
    """
    loose = [
        axis
        for axis, stride in enumerate(convolution.strides, at)
        if stride > 1 and x.shape[axis] is None
    ]
    if not loose:
        return x
    shape = x.shape
    ends, kept = [[0, 0] for _ in shape], tf.unstack(tf.shape(x))
    for axis in loose:
        n, stride = kept[axis], convolution.strides[axis - at]
        reach = convolution.kernel_size[axis - at] - 1
        if padding == "causal":
            ends[axis] = [reach, 0]
        elif padding == "same":
            step = (n - 1) // stride * stride + 1 - n
            total = tf.maximum(step + reach, 0)
            ends[axis] = [total // 2, total - total // 2]
        n += sum(ends[axis])
        kept[axis] = n - (n - reach - 1) % stride
    x = tf.slice(tf.pad(x, ends), [0] * len(ends), kept)
    known = [None if axis in loose else n for axis, n in enumerate(shape)]
    x.set_shape(known)
    return x
