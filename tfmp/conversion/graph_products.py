"""Matrix products and convolutions among the operators of a graph.

Of products whose operands are both computed, and of kernels that are in no
layer: those of a layer's own code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tfmp.conversion.sizes import Shape, Sizes
from tfmp.cost_model import Product

UNSEEN = {
    *("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"),
    *("PartitionedCall", "StatefulPartitionedCall", "XlaCallModule"),
    *("PyFunc", "EagerPyFunc", "Map"),
}


def products_in(
    operators: Iterable[tf.Operation], sizes: Sizes
) -> tuple[list[Product], bool]:
    """Returns the products that operators are, and whether they hide more.

    Multiplications without a sum are none.  Hidden are those of loops and
    functions, which are not looked into, and of operators whose shapes say
    nothing, as behind `tf.numpy_function`.

    Args:
        operators: of a graph of TensorFlow.
        sizes: for lengths that are not known while a graph is made.
    """
    found, hides = [], False
    for operator in operators:
        hides |= operator.type in UNSEEN
        read = _READERS.get(operator.type)
        if read is None or not operator.outputs[0].dtype.is_floating:
            continue
        try:
            product = read(operator, sizes)
        except (TypeError, ValueError, ArithmeticError, LookupError):
            hides = True
            continue
        if product and product.k > 1:
            found.append(product)
    return found, hides


def of_einsum(equation: str, lhs: Shape, rhs: Shape) -> Product:
    """Returns an einsum of two operands as matrix products.

    Of a label that is twice in an operand, the diagonal is what is multiplied;
    a label of one operand that the result lacks is summed before.

    Raises:
        ValueError: if the equation does not fit the shapes.
    """
    terms, result = equation.replace(" ", "").split("->")
    first, second = terms.split(",")
    rows, columns = _lengths(first, lhs), _lengths(second, rhs)
    shared = [label for label in rows if label in columns]
    if any(not _broadcast(rows[x], columns[x]) for x in shared):
        raise ValueError(f"{equation} does not fit {lhs} and {rhs}")
    both = {label: max(rows[label], columns[label]) for label in shared}

    def size(lengths: dict[Any, int], kept: bool) -> int:
        """Returns the product of the lengths that are kept, or are not."""
        return math.prod(
            length
            for label, length in lengths.items()
            if (isinstance(label, int) or label in result) == kept
        )

    alone = [
        {label: n for label, n in lengths.items() if label not in both}
        for lengths in (rows, columns)
    ]
    m, n = (size(lengths, kept=True) for lengths in alone)
    return Product(m, size(both, kept=False), n, size(both, kept=True))


def _broadcast(one: int, other: int) -> bool:
    return one == other or 1 in (one, other)


def _lengths(term: str, shape: Shape) -> dict[str | int, int]:
    """Returns the length of each label; numbers are axes of an ellipsis."""
    before, dots, after = term.partition("...")
    wide = len(shape) - len(before) - len(after) if dots else 0
    labels = [*before, *range(wide, 0, -1), *after]
    return dict(zip(labels, shape, strict=True))


def _shape(tensor: tf.Tensor, sizes: Sizes) -> Shape:
    return sizes.fill(tensor.shape.as_list())


def _matmul(operator: Any, sizes: Sizes) -> Product:
    """Of `[..., m, k] @ [..., k, n]`, either transposed."""
    a, b = (_shape(each, sizes) for each in operator.inputs)
    batched = operator.type != "MatMul"
    names = ("adj_x", "adj_y") if batched else ("transpose_a", "transpose_b")
    first, second = map(operator.get_attr, names)
    m, k = a[:-3:-1] if first else a[-2:]
    batch = math.prod(_shape(operator.outputs[0], sizes)[:-2])
    return Product(m, k, b[-2] if second else b[-1], batch)


def _einsum(operator: Any, sizes: Sizes) -> Product | None:
    if len(operator.inputs) != 2:
        return None
    shapes = [_shape(each, sizes) for each in operator.inputs]
    return of_einsum(operator.get_attr("equation").decode(), *shapes)


def _convolution(operator: Any, sizes: Sizes) -> Product:
    inputs, kernel = (_shape(each, sizes) for each in operator.inputs[:2])
    output = _shape(operator.outputs[0], sizes)
    columns = kernel[-1]
    last = operator.get_attr("data_format").decode().endswith("C")
    groups = inputs[-1 if last else 1] // kernel[-2]
    return Product(
        m=math.prod(output) // columns,
        k=math.prod(kernel[:-1]),
        n=columns // groups,
        batch=groups,
    )


def _depthwise(operator: Any, sizes: Sizes) -> Product:
    *window, channels, columns = _shape(operator.inputs[1], sizes)
    output = math.prod(_shape(operator.outputs[0], sizes))
    rows = output // (channels * columns)
    return Product(rows, math.prod(window), columns, channels)


def _transposed(operator: Any, sizes: Sizes) -> Product:
    *window, columns, channels = _shape(operator.inputs[1], sizes)
    rows = math.prod(_shape(operator.inputs[2], sizes)) // channels
    return Product(rows, channels, columns * math.prod(window))


_READERS: dict[str, Callable[[Any, Sizes], Product | None]] = {
    "MatMul": _matmul,
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "BatchMatMulV3": _matmul,
    "Einsum": _einsum,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
}
