"""What any small format, or blocks of one, would make of a tensor.

The result is a float32 tensor on the format's values, for formats that
TensorFlow has no dtype for and no local hardware multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfmp import formats
from tfmp._core import bit_rounding, custom_gradients, quantization, scaling
from tfmp._support import checks
from tfmp.formats import BlockFormat, Format

WIDE_EXPONENT = 8  # bits, of formats with the range of float32


def emulate(
    x: Any,
    format: Any,
    *,
    scale: Any = None,
    axis: int | tuple[int, ...] = -1,
    rounding: str = "nearest",
    saturate: bool = True,
    seed: Any = None,
) -> tf.Tensor:
    """Rounds a tensor to the values of any format, and keeps it in float32.

        y = round(x * scale) / scale        a `Format`
        y = round(x / s) * s                a `BlockFormat`, `s` of each block

    Equal to ml_dtypes bit for bit where that has the format, but for two
    things: NaN in formats without, which it makes zero, stays NaN; and values
    of E8M0 between 2**-127 and 2**-126, which it rounds up, go to the nearest.
    A block with a NaN or an infinity becomes NaN.  The gradient is passed
    straight through: `dx = dy`.

    The rounding itself is exact for every float32, on every device.  Scales
    are float32 arithmetic, in which magnitudes below 2**-126 count as zero.

    Args:
        x: float32, bfloat16, float16 or float64 tensor of any shape; float64
            is rounded to float32 before.
        format: a `tfmp.formats` format, a name such as `"E2M1"` or `"MXFP4"`,
            or a dtype; any whose values float32 has.
        scale: for a `Format`: float32, a scalar or of a shape that broadcasts
            to that of `x`; None is 1.
        axis: along which blocks lie; the last one is filled up with zeros.
            Several axes count as one, flattened in their order; of none, each
            value is a block.
        rounding: `"nearest"`, with ties to even; `"toward_zero"`; or
            `"stochastic"`: up with a probability that is the distance to the
            value below in units of the last place, to within 2**-30.
        saturate: whether a magnitude that is too large becomes the largest;
            if not, infinite or NaN, as far as the format has these.
        seed: for `"stochastic"`: an integer, or an integer tensor of shape
            `[2]`.  The same seed gives the same result, compiled or not.

    Returns:
        float32 tensor of the shape of `x`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `format` is unknown or has values that float32 has not,
            `scale` does not broadcast or is given for a `BlockFormat`, `axis`
            is not one of `x`, `rounding` is unknown, or `seed` is missing for
            `"stochastic"` or given without.

    Source: OCP Microscaling Formats (MX) Specification 1.0, section 6.3; arXiv
    2509.25149 and Transformer Engine's `NVFP4QuantizerRef` (NVFP4); arXiv
    1502.02551, section 3 (stochastic rounding).

    >>> emulate([0.3, 2.6, -100.0], "E2M1").numpy().tolist()
    [0.5, 3.0, -6.0]
    >>> emulate([0.3, 2.6, -100.0], "MXFP4").numpy().tolist()
    [0.0, 0.0, -96.0]
    """
    x = _floating(x)
    target = formats.representable("format", format)
    checks.choice("rounding", rounding, formats.ROUNDINGS)
    checks.boolean("saturate", saturate)
    seed = _seed(seed, rounding)
    axes = _axes(axis, x.shape.rank)
    if scale is not None:
        if isinstance(target, BlockFormat):
            raise ValueError(
                "`scale` must be None for a format of blocks, which have "
                f"their own. Received: {scale!r}"
            )
        scale = tf.stop_gradient(quantization.fitting_scale(scale, x.shape))

    def to_grid(x: tf.Tensor, target: Format) -> tf.Tensor:
        return _on_grid(x, target, rounding, saturate, seed)

    @custom_gradients.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        """Rounds; the gradient passes as if nothing was."""
        if isinstance(target, BlockFormat):
            low = _in_blocks(x, target, axes, to_grid)
        elif scale is None:
            low = to_grid(x, target)
        else:
            low = to_grid(tf.cast(x, tf.float32) * scale, target) / scale
        return low, lambda upstream: tf.cast(upstream, x.dtype)

    return run(x)


def current_scale(x: tf.Tensor, target: Format | BlockFormat) -> Any:
    """Returns the scale that brings a tensor's amax to the top of a format.

    None where there is nothing to bring: for blocks, and for formats with the
    exponents of float32.
    """
    if isinstance(target, BlockFormat):
        return None
    if target.exponent_bits >= WIDE_EXPONENT:
        return None
    return scaling.compute_scale(scaling.amax(x), target)


def _on_grid(
    x: tf.Tensor,
    target: Format,
    rounding: str = "nearest",
    saturate: bool = True,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    bits, random = bit_rounding.bits_of(x), None
    if seed is not None:
        random = tf.random.stateless_uniform(
            tf.shape(x), seed, None, None, tf.int32, alg="philox"
        )
        random = random & (2**bit_rounding.RANDOM_BITS - 1)
    low = bit_rounding.round_bits(bits, target, rounding, saturate, random)
    return tf.bitcast(low, tf.float32)


def _in_blocks(
    x: tf.Tensor,
    target: BlockFormat,
    axes: tuple[int, ...],
    to_grid: Callable[[tf.Tensor, Format], tf.Tensor],
) -> tf.Tensor:
    """Rounds a tensor in blocks that lie along some axes."""
    others = [axis for axis in range(x.shape.rank) if axis not in axes]
    order = [*others, *axes]
    moved = tf.transpose(tf.cast(x, tf.float32), order)
    lengths, kept = tf.shape(moved), len(others)
    count = tf.reduce_prod(lengths[kept:])
    rows = tf.reshape(moved, tf.concat([lengths[:kept], [count]], 0))
    missing = -count % target.block_size
    padded = tf.pad(rows, [[0, 0]] * kept + [[0, missing]])
    whole = [(count + missing) // target.block_size, target.block_size]
    blocks = tf.reshape(padded, tf.concat([lengths[:kept], whole], 0))

    low = _scaled_blocks(blocks, target, to_grid)
    low = tf.reshape(low, tf.shape(padded))[..., :count]
    inverse = [order.index(axis) for axis in range(len(order))]
    low = tf.transpose(tf.reshape(low, lengths), inverse)
    low.set_shape(x.shape)
    return low


def _scaled_blocks(
    blocks: tf.Tensor,
    target: BlockFormat,
    to_grid: Callable[[tf.Tensor, Format], tf.Tensor],
) -> tf.Tensor:
    """Rounds blocks, which are the last axis."""
    size = tf.reduce_max(
        bit_rounding.bits_of(blocks) & bit_rounding.MAGNITUDE, -1, keepdims=True
    )
    if target.scale.mantissa_bits:
        decode = _fine_scales(size, target)
        encode = tf.minimum(1.0 / decode, tf.float32.max)
        low = to_grid(blocks * encode, target.element) * decode
    else:
        power = _powers(size, target)
        low = to_grid(_times_power(blocks, -power), target.element)
        low = _times_power(low, power)
    return tf.where(size < bit_rounding.INFINITY, low, math.nan)


def _powers(size: tf.Tensor, target: BlockFormat) -> tf.Tensor:
    """Returns the exponents of scales that are powers of two.

    Args:
        size: amax of the blocks, as bits of float32.
        target: the block format.
    """
    fraction, _ = math.frexp(target.element.max)
    top = int((2 * fraction - 1) * bit_rounding.HIDDEN)
    last = bit_rounding.HIDDEN - 1
    # What is added carries into the exponent if the mantissa is above.
    half = bit_rounding.HIDDEN >> (target.element.mantissa_bits + 1)
    added = {"floor": 0, "ceil": last, "rceil": last - top, "even": half}
    field = tf.bitwise.right_shift(
        size + added[target.scale_rounding], bit_rounding.FRACTION_BITS
    )
    power = field - 127 - target.element.max_exponent
    ends = target.scale.min_exponent, target.scale.max_exponent
    return tf.clip_by_value(power, *ends)


def _fine_scales(size: tf.Tensor, target: BlockFormat) -> tf.Tensor:
    """Returns scales with a mantissa, a float32 one of the tensor included.

    In the order of Transformer Engine's operations, for the same bits.
    """
    amax = tf.bitcast(size, tf.float32)
    if not target.tensor_scale:
        return _on_grid(amax / target.element.max, target.scale)
    finite = tf.where(size < bit_rounding.INFINITY, size, 0)
    most = tf.bitcast(tf.reduce_max(finite), tf.float32)
    whole = target.scale.max * target.element.max / most
    whole = tf.minimum(whole, 2.0**scaling.MAX_EXPONENT)
    whole = tf.where(scaling.is_observed(most), whole, 1.0)
    scale = _on_grid(amax * (whole * (1 / target.element.max)), target.scale)
    return scale * (1.0 / whole)


def _times_power(x: tf.Tensor, power: tf.Tensor) -> tf.Tensor:
    """Returns `x * 2**power`; either half of the power is a normal float32."""
    half = power // 2
    return x * scaling.exp2(half) * scaling.exp2(power - half)


def _floating(x: Any) -> tf.Tensor:
    x = scaling.as_tensor("x", x)
    if not x.dtype.is_floating or x.dtype.size < 2:
        raise TypeError(
            "`x` must be float16, bfloat16, float32 or float64. "
            f"Received: dtype {x.dtype.name}"
        )
    return x


def _axes(axis: Any, rank: int | None) -> tuple[int, ...]:
    if rank is None:
        raise ValueError(
            "`x` must have a known rank; lengths may be unknown. "
            "Received: unknown rank"
        )
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    if rank == 0:
        return ()
    for each in given:
        checks.integer("axis", each, -rank, rank - 1)
    found = tuple(each % rank for each in given)
    if len(set(found)) < len(found):
        raise ValueError(
            f"`axis` must be one axis, or different ones. Received: {axis!r}"
        )
    return found


def _seed(seed: Any, rounding: str) -> tf.Tensor | None:
    if (seed is None) == (rounding == "stochastic"):
        raise ValueError(
            "`seed` must be given for rounding='stochastic', and only then. "
            f"Received: seed={seed!r}, rounding={rounding!r}"
        )
    if seed is None:
        return None
    if isinstance(seed, int) and not isinstance(seed, bool):
        return tf.constant([0, checks.integer("seed", seed, 0, 2**31 - 1)])
    seed = scaling.as_tensor("seed", seed)
    if seed.dtype not in (tf.int32, tf.int64) or seed.shape != [2]:
        raise TypeError(
            "`seed` must be an integer, or an int32 or int64 tensor of shape "
            f"[2]. Received: dtype {seed.dtype.name}, shape {seed.shape}"
        )
    return seed
