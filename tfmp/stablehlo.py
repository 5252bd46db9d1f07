"""Products of FP8 operands, as StableHLO modules that TensorFlow runs.

TensorFlow's operators refuse FP8; `XlaCallModule` takes a StableHLO module
that does not, eager, in a graph, under XLA and in a SavedModel.  The import
below is the library's only private one.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from tfmp import equations

ELEMENT_TYPES = {
    "float8_e4m3fn": "f8E4M3FN",
    "float8_e5m2": "f8E5M2",
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "uint8": "ui8",
}

MODULE = """\
module @tfmp attributes {{jax.uses_shape_polymorphism = true}} {{
  func.func public @main(%a: {lhs}, %b: {rhs}) -> {out} {{
    %d = stablehlo.dot_general %a, %b, {dimensions}precision = [{precision}]
        : ({lhs}, {rhs}) -> {out}
    return %d : {out}
  }}
}}
"""

BITCAST = """\
module @tfmp attributes {{jax.uses_shape_polymorphism = true}} {{
  func.func public @main(%a: {given}) -> {out} {{
    %d = stablehlo.bitcast_convert %a : ({given}) -> {out}
    return %d : {out}
  }}
}}
"""


def bitcast(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns the same bytes as another dtype of one byte."""
    given, out = _tensor_type(x.shape, x.dtype), _tensor_type(x.shape, dtype)
    return _call(BITCAST.format(given=given, out=out), [x], dtype, x.shape)


def dot_general(
    lhs: tf.Tensor,
    rhs: tf.Tensor,
    contraction: equations.Contraction,
    dtype: tf.DType,
    precise: bool,
) -> tf.Tensor:
    """Multiplies two tensors; the result's axes are in the natural order.

    Args:
        lhs: tensor of an FP8, 16-bit or float32 dtype.
        rhs: the same; FP8 dtypes may differ.
        contraction: the labels of the axes.
        dtype: of the result: what the product is rounded to.
        precise: asks for accumulation in full float32; without it, FP8
            products may use the tensor cores' fast accumulation.

    Returns:
        Tensor of `dtype` with axes `contraction.natural`.
    """
    lengths = dict(zip(contraction.rhs, rhs.shape, strict=True))
    lengths |= {
        label: length
        for label, length in zip(contraction.lhs, lhs.shape, strict=True)
        if length is not None or label not in lengths
    }
    shape = [lengths[label] for label in contraction.natural]
    module = MODULE.format(
        lhs=_tensor_type(lhs.shape, lhs.dtype),
        rhs=_tensor_type(rhs.shape, rhs.dtype),
        out=_tensor_type(shape, dtype),
        dimensions=_dimensions(contraction),
        precision=", ".join(["HIGHEST" if precise else "DEFAULT"] * 2),
    )
    return _call(module, [lhs, rhs], dtype, shape)


def barrier(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """Returns the tensors, behind a line that XLA does not optimise across.

    Only inside a function compiled by XLA.
    """
    return list(xla.optimization_barrier(*tensors))


def _call(
    module: str,
    arguments: list[tf.Tensor],
    dtype: tf.DType,
    shape: list[int | None],
) -> tf.Tensor:
    """Runs a module on whatever device the tensors are on."""
    (result,) = xla.call_module(
        arguments,
        version=9,
        module=module,
        Tout=[dtype],
        Sout=[shape],
        platforms=["CPU"],
        disabled_checks=["platform"],
    )
    return result


def _tensor_type(shape: object, dtype: tf.DType) -> str:
    lengths = tf.TensorShape(shape).as_list()
    axes = "".join(f"{'?' if n is None else n}x" for n in lengths)
    return f"tensor<{axes}{ELEMENT_TYPES[dtype.name]}>"


def _dimensions(contraction: equations.Contraction) -> str:
    text = ""
    if contraction.batch:
        text += f"batching_dims = {_pair(contraction.batch_axes)}, "
    return text + f"contracting_dims = {_pair(contraction.contracting_axes)}, "


def _pair(axes: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    return f"{list(axes[0])} x {list(axes[1])}"
