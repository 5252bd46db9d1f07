"""Matrix products and convolutions among the operators of a graph.

Of products whose operands are both computed, and of kernels that are in no
layer: those of a layer's own code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tfmp._core import equations
from tfmp.conversion.sizes import Shape, Sizes
from tfmp.cost_model import Product

UNSEEN = {
    *("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"),
    *("PartitionedCall", "StatefulPartitionedCall", "XlaCallModule"),
    *("PyFunc", "EagerPyFunc", "Map"),
}


def products_in(
    operators: Iterable[tf.Operation], sizes: Sizes
) -> list[Product]:
    """Returns the products that operators of a graph are.

    Multiplications without a sum are none.

    Args:
        operators: of a graph of TensorFlow.
        sizes: for lengths that are not known while a graph is made.
    """
    found = [
        _READERS[operator.type](operator, sizes)
        for operator in operators
        if operator.type in _READERS and operator.outputs[0].dtype.is_floating
    ]
    return [product for product in found if product and product.k > 1]


def hides_products(operators: Iterable[tf.Operation]) -> bool:
    """Whether operators run others, which are not looked into."""
    return any(operator.type in UNSEEN for operator in operators)


def of_einsum(equation: str, lhs: Shape, rhs: Shape) -> Product:
    """Returns an einsum of two operands as matrix products.

    Raises:
        ValueError: if the equation does not fit the shapes.
    """
    found = equations.parse(equation, lhs, rhs).contraction
    lengths = dict(zip(found.rhs, rhs, strict=True))
    lengths |= dict(zip(found.lhs, lhs, strict=True))
    used = found.batch + found.contracting

    def size(labels: str) -> int:
        return math.prod(lengths[label] for label in labels)

    rows = "".join(label for label in found.lhs if label not in used)
    columns = "".join(label for label in found.rhs if label not in used)
    batch = size(found.batch)
    return Product(size(rows), size(found.contracting), size(columns), batch)


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
