"""Products of FP8 operands, as StableHLO modules that TensorFlow runs.

TensorFlow's operators refuse FP8; `XlaCallModule` takes a StableHLO module
that does not, eager, in a graph, under XLA and in a SavedModel.  The import
below is private.

A product is written twice, for CPUs and for all others; which one a program
has is settled when TensorFlow lowers it for a device.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from tfmp._core import cpu_stablehlo, equations, stablehlo_writer, windows

ELEMENT_TYPES = {
    "float8_e4m3fn": "f8E4M3FN",
    "float8_e5m2": "f8E5M2",
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "uint8": "ui8",
    "int64": "i64",
}

MODULE = """\
module @tfmp attributes {{jax.uses_shape_polymorphism = true}} {{
  func.func public @main({arguments}) -> {out} {{
{body}
    return %d : {out}
  }}
}}
"""
# XLA leaves of it what is for the platform that it compiles for: the first
# branch is the first platform's, the last one that of all others.  One that is
# not in the list would count as the first.
PLATFORMS = ["CPU", "CUDA", "ROCM", "TPU"]
PLATFORM = '%platform: tensor<i32> {jax.global_constant = "_platform_index"}, '
CASE = """\
    %d = "stablehlo.case"(%platform) ({{
{cpu}
    }}, {{
{other}
    }}) : (tensor<i32>) -> {out}"""


def bitcast(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns the same bytes as another dtype of one byte."""
    given, out = _tensor_type(x.shape, x.dtype), _tensor_type(x.shape, dtype)
    line = f"%d = stablehlo.bitcast_convert %a : ({given}) -> {out}"
    return _call([line], [x], dtype, x.shape)


def multiply(
    product: equations.Contraction | windows.Window,
    lhs: tf.Tensor,
    rhs: tf.Tensor,
    dtype: tf.DType,
    precise: bool,
) -> tf.Tensor:
    """Returns the `dot_general` or the `convolution` of two tensors.

    A convolution accumulates in full float32 at any rate.
    """
    if isinstance(product, windows.Window):
        return convolution(lhs, rhs, product, dtype)
    return dot_general(lhs, rhs, product, dtype, precise)


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
    given = lhs.shape.as_list(), rhs.shape.as_list()
    lengths = cpu_stablehlo.lengths(contraction, *given)
    shape = [lengths[label] for label in contraction.natural]
    types = [_tensor_type(x.shape, x.dtype) for x in (lhs, rhs)]
    precision = ", ".join(["HIGHEST" if precise else "DEFAULT"] * 2)
    lines = [
        f"%d = stablehlo.dot_general %a, %b, {_dimensions(contraction)}"
        f"precision = [{precision}]",
        f"    : ({', '.join(types)}) -> {_tensor_type(shape, dtype)}",
    ]
    on_cpu = None
    if all(x.dtype.size == 1 or x.dtype == tf.bfloat16 for x in (lhs, rhs)):
        types = [ELEMENT_TYPES[t.name] for t in (lhs.dtype, rhs.dtype, dtype)]
        on_cpu = cpu_stablehlo.lines(contraction, *given, types)
    return _call(lines, [lhs, rhs], dtype, shape, on_cpu)


def convolution(
    lhs: tf.Tensor, rhs: tf.Tensor, window: windows.Window, dtype: tf.DType
) -> tf.Tensor:
    """Convolves two tensors.

    A GPU has FP8 kernels for plain convolutions only, that is: forward ones,
    in which nothing is reversed.  XLA would undo what makes one plain, so a
    barrier stands before the operands: before FP8 values, as upsampled ones are
    widened before they are repeated; before a reversed FP8 kernel, which is not
    to become a reversal of the window, and before widened FP8 operands, which
    are not to become FP8 again.

    Args:
        lhs: tensor of an FP8, 16-bit or float32 dtype.
        rhs: of the same dtype.
        window: what is convolved how.
        dtype: of the result if the operands are FP8, and what `window.widen`
            widens to.  Other operands have a result of their own dtype, as
            GPU libraries want it.

    Returns:
        Tensor with axes `window.out`.
    """
    low = lhs.dtype.size == 1
    dtype = dtype if low else lhs.dtype
    shape = window.result_shape(lhs.shape.as_list(), rhs.shape.as_list())
    values = [("%a", lhs.shape.as_list(), lhs.dtype)]
    values += [("%b", rhs.shape.as_list(), rhs.dtype)]
    lines: list[str] = []
    if low and not window.widen:
        values[0] = _guard(lines, values[0])
    if window.reverse:
        values[1] = _reverse(lines, values[1], window, barrier=low)
    elif window.widen and low:
        values = [_widen(lines, value, dtype) for value in values]
    lines += _convolution(window, values, _tensor_type(shape, dtype))
    return _call(lines, [lhs, rhs], dtype, shape)


def fence(x: tf.Tensor) -> tf.Tensor:
    """Returns the tensor, behind a `barrier` of its own, compiled or not."""
    kind = _tensor_type(x.shape, x.dtype)
    line = f"%d = stablehlo.optimization_barrier %a : {kind}"
    return _call([line], [x], x.dtype, x.shape)


def barrier(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """Returns the tensors, behind a line that XLA does not optimise across.

    Only inside a function compiled by XLA.
    """
    return list(xla.optimization_barrier(*tensors))


def _call(
    lines: list[str],
    arguments: list[tf.Tensor],
    dtype: tf.DType,
    shape: list[int | None],
    on_cpu: tuple[list[str], str] | None = None,
) -> tf.Tensor:
    """Runs operations that end in `%d` on whatever device the tensors are.

    Args:
        lines: the operations; the tensors are `%a` and `%b`.
        arguments: the tensors.
        dtype: of the result.
        shape: of the result.
        on_cpu: other operations for a CPU, and the name that they end in.
    """
    types = [_tensor_type(x.shape, x.dtype) for x in arguments]
    names = ", ".join(map("%{}: {}".format, "ab", types))
    out = _tensor_type(shape, dtype)
    body = "\n".join(f"    {line}" for line in lines)
    if on_cpu is not None:
        names = PLATFORM + names
        body = CASE.format(
            cpu=_branch(*on_cpu, out), other=_branch(lines, "%d", out), out=out
        )
    module = MODULE.format(arguments=names, body=body, out=out)
    platforms = PLATFORMS[:1] if on_cpu is None else PLATFORMS
    return run(module, arguments, [(dtype, shape)], platforms)[0]


def run(
    module: str,
    arguments: list[tf.Tensor],
    results: list[tuple[tf.DType, list[int | None]]],
    platforms: list[str] = PLATFORMS,
) -> list[tf.Tensor]:
    """Runs a module whose results have these dtypes and shapes."""
    dtypes, shapes = zip(*results, strict=True)
    found: list[tf.Tensor] = xla.call_module(
        arguments,
        version=9,
        module=module,
        Tout=dtypes,
        Sout=shapes,
        platforms=platforms,
        disabled_checks=["platform"],
    )
    return found


def _branch(lines: list[str], name: str, out: str) -> str:
    last = f"stablehlo.return {name} : {out}"
    return "\n".join(f"      {line}" for line in [*lines, last])


def _tensor_type(shape: object, dtype: tf.DType) -> str:
    lengths = tf.TensorShape(shape).as_list()
    return stablehlo_writer.tensor_type(lengths, ELEMENT_TYPES[dtype.name])


def _dimensions(contraction: equations.Contraction) -> str:
    pairs = contraction.batch_axes, contraction.contracting_axes
    batch, summed = (f"{list(lhs)} x {list(rhs)}" for lhs, rhs in pairs)
    batching = f"batching_dims = {batch}, " if contraction.batch else ""
    return f"{batching}contracting_dims = {summed}, "


Value = tuple[str, "list[int | None]", tf.DType]


def _reverse(
    lines: list[str], kernel: Value, window: windows.Window, barrier: bool
) -> Value:
    """Adds the lines that reverse a kernel and move its groups."""
    name, shape, dtype = kernel
    axes = [window.rhs.index(label) for label in window.spatial]
    given = _tensor_type(shape, dtype)
    lines.append(f"%r = stablehlo.reverse {name}, dims = {axes} : {given}")
    name = "%r"
    if window.feature_groups > 1:
        apart, together = window.regrouped([n or 0 for n in shape])
        rank = len(apart)
        order = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
        swapped = [apart[axis] for axis in order]
        types = [_tensor_type(s, dtype) for s in (apart, swapped, together)]
        lines += [
            f"%s = stablehlo.reshape %r : ({given}) -> {types[0]}",
            f"%t = stablehlo.transpose %s, dims = {order}"
            f" : ({types[0]}) -> {types[1]}",
            f"%u = stablehlo.reshape %t : ({types[1]}) -> {types[2]}",
        ]
        name, shape = "%u", list(together)
    value = name, shape, dtype
    return _guard(lines, value) if barrier else value


def _widen(lines: list[str], value: Value, dtype: tf.DType) -> Value:
    """Adds the lines that convert an operand to a wider dtype."""
    name, shape, given = value
    kinds = f"({_tensor_type(shape, given)}) -> {_tensor_type(shape, dtype)}"
    lines.append(f"{name}_ = stablehlo.convert {name} : {kinds}")
    return _guard(lines, (f"{name}_", shape, dtype))


def _guard(lines: list[str], value: Value) -> Value:
    """Adds the line that XLA does not optimise across."""
    name, shape, dtype = value
    kind = _tensor_type(shape, dtype)
    lines.append(f"{name}_ = stablehlo.optimization_barrier {name} : {kind}")
    return f"{name}_", shape, dtype


def _convolution(
    window: windows.Window, values: list[Value], out: str
) -> list[str]:
    """Returns the lines of the convolution itself."""
    names = ", ".join(name for name, _, _ in values)
    types = ", ".join(_tensor_type(shape, t) for _, shape, t in values)
    lhs, rhs, result = (
        f"[{', '.join(labels)}]"
        for labels in (window.lhs, window.rhs, window.out)
    )
    padding = [list(pair) for pair in window.padding]
    return [
        f"%d = stablehlo.convolution({names})",
        f"    dim_numbers = {lhs}x{rhs}->{result},",
        f"    window = {{stride = {list(window.strides)}, pad = {padding},",
        f"        lhs_dilate = {list(window.lhs_dilation)},",
        f"        rhs_dilate = {list(window.rhs_dilation)}}}",
        f"    {{batch_group_count = {window.batch_groups} : i64,",
        f"        feature_group_count = {window.feature_groups} : i64}}",
        f"    : ({types}) -> {out}",
    ]
