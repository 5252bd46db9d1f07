"""The matrix products of a layer's forward pass, from its shapes alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from tfmp import call_internals, checks, equations, internals, recipes
from tfmp.cost_model import Product
from tfmp.layers.classes import ours_for
from tfmp.layers.convolution import Float8Convolution

Shape = tuple[int, ...]
SPARSE = "its inputs are sparse, which no FP8 product takes"
ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What to assume for lengths that a model leaves open.

    Args:
        batch_size: of the first axis.
        length: of any other.

    Raises:
        TypeError: if one is not an integer.
        ValueError: if one is less than 1.
    """

    batch_size: int = 32
    length: int = 512

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, 1)
        checks.integer("length", self.length, 1)

    def fill(self, shape: Sequence[int | None]) -> Shape:
        """Returns the shape with every length known."""
        open_lengths = [self.batch_size] + [self.length] * (len(shape) - 1)
        return tuple(
            other if length is None else length
            for length, other in zip(shape, open_lengths, strict=True)
        )


def products_of(
    layer: keras.Layer, sizes: Sizes, parent: keras.Layer | None = None
) -> list[Product]:
    """Returns a layer's products; none if it has none, or is not built.

    Sublayers count for themselves: of an attention layer these are the
    products of scores and of values.

    Args:
        layer: built or not.
        sizes: what to assume for open lengths.
        parent: the layer that it is in, if any.
    """
    shapes = _build_shapes(layer)
    if isinstance(parent, ATTENTION) and layer.name == "attention_output":
        shapes = _after_attention(layer, parent)
    for base in type(layer).__mro__:
        if base in _PRODUCTS and shapes:
            filled = [sizes.fill(shape) for shape in shapes]
            return _PRODUCTS[base](layer, *filled)
    return []


def not_in_float8(layer: keras.Layer) -> dict[str, str]:
    """Returns why products of a layer cannot run in FP8, by product.

    Those of convolutions that are built, and of sparse inputs.
    """
    if call_internals.takes_sparse(layer):
        return dict.fromkeys(recipes.PRODUCTS, SPARSE)
    ours = ours_for(type(layer))
    shapes = _build_shapes(layer)
    if not shapes or not hasattr(ours, "float8_products"):
        return {}
    lost = ours.float8_products(layer, shapes[0])  # type: ignore[union-attr]
    if not _is_pointwise(layer, shapes[0]):
        lost |= {"kernel_grad": "GPUs have no FP8 kernel for it"}
    return {product: why for product, why in lost.items() if why}


def _is_pointwise(layer: Any, shape: Sequence[int | None]) -> bool:
    return Float8Convolution.as_convolution(layer, shape).pointwise


def _build_shapes(layer: keras.Layer) -> list[tuple[int | None, ...]]:
    config = (layer.built and layer.get_build_config()) or {}
    shapes = config.get("shapes_dict") or {"input": config.get("input_shape")}
    return [
        tuple(shape)
        for shape in shapes.values()
        if isinstance(shape, (tuple, list))
        and all(n is None or isinstance(n, int) for n in shape)
    ]


def _after_attention(layer: Any, attention: keras.Layer) -> list:
    """Keras builds this layer with an open length; it is the query's."""
    query = _build_shapes(attention)[:1]
    return [(*shape[:-1], *layer.kernel.shape[:-1]) for shape in query]


def _dense(layer: Any, shape: Shape) -> list[Product]:
    return [Product(math.prod(shape[:-1]), shape[-1], layer.units)]


def _einsum_dense(layer: Any, shape: Shape) -> list[Product]:
    kernel = tuple(layer.kernel.shape)
    found = equations.parse(layer.equation, shape, kernel).contraction
    lengths = dict(zip(found.rhs, kernel, strict=True))
    lengths |= dict(zip(found.lhs, shape, strict=True))
    used = found.batch + found.contracting

    def size(labels: str) -> int:
        return math.prod(lengths[label] for label in labels)

    rows = "".join(label for label in found.lhs if label not in used)
    columns = "".join(label for label in found.rhs if label not in used)
    batch = size(found.batch)
    return [Product(size(rows), size(found.contracting), size(columns), batch)]


def _pixels(layer: Any, shape: Shape) -> tuple[int, int, int]:
    """Returns pixels of input and output, each times batch, and channels."""
    last = layer.data_format == "channels_last"

    def count(shape: Shape) -> int:
        return shape[0] * math.prod(shape[1:-1] if last else shape[2:])

    output = layer.compute_output_shape(shape)
    return count(shape), count(output), shape[-1] if last else shape[1]


def _conv(layer: Any, shape: Shape) -> list[Product]:
    before, after, channels = _pixels(layer, shape)
    lost = not_in_float8(layer)
    looked_at = after if _is_pointwise(layer, shape) else before
    return [
        Product(
            m=after,
            k=math.prod(layer.kernel_size) * channels // layer.groups,
            n=layer.filters // layer.groups,
            batch=layer.groups,
            inputs=looked_at * channels,
            float8=(
                "output" not in lost,
                "input_grad" not in lost,
                "kernel_grad" not in lost,
            ),
        )
    ]


def _depthwise(layer: Any, shape: Shape) -> list[Product]:
    before, after, channels = _pixels(layer, shape)
    window, columns = math.prod(layer.kernel_size), layer.depth_multiplier
    return [Product(after, window, columns, channels, before * channels)]


def _separable(layer: Any, shape: Shape) -> list[Product]:
    _, after, channels = _pixels(layer, shape)
    depthwise = _depthwise(layer, shape)
    inner = channels * layer.depth_multiplier
    return [*depthwise, Product(after, inner, layer.filters)]


def _transposed(layer: Any, shape: Shape) -> list[Product]:
    before, _, channels = _pixels(layer, shape)
    columns = layer.filters * math.prod(layer.kernel_size)
    return [Product(before, channels, columns)]


def _attention(layer: Any, query: Shape, value: Shape, *_: Shape) -> list:
    """Scores `[rows, depth] @ [depth, columns]`, then values."""
    grouped = isinstance(layer, layers.GroupQueryAttention)
    heads = layer.num_query_heads if grouped else layer.num_heads
    depth = layer.head_dim if grouped else layer.key_dim
    rows, columns = math.prod(query[1:-1]), math.prod(value[1:-1])
    batch = query[0] * heads
    return [
        Product(rows, depth, columns, batch),
        Product(rows, columns, getattr(layer, "value_dim", depth), batch),
    ]


def _reversible(layer: Any, shape: Shape) -> list[Product]:
    """A lookup, and the logits if it is called in reverse."""
    logits = Product(math.prod(shape), layer.output_dim, layer.input_dim)
    return [logits] * internals.reversed_calls(layer)


def _recurrent(gates: int) -> Callable[..., list[Product]]:
    def products(layer: Any, shape: Shape, *_: Shape) -> list[Product]:
        batch, steps, features = shape
        columns = gates * layer.units
        return [
            Product(batch * steps, features, columns),
            Product(batch, layer.units, columns, steps),
        ]

    return products


_PRODUCTS: dict[type, Callable[..., list[Product]]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Conv1D: _conv,
    layers.Conv2D: _conv,
    layers.Conv3D: _conv,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv1D: _separable,
    layers.SeparableConv2D: _separable,
    layers.Conv1DTranspose: _transposed,
    layers.Conv2DTranspose: _transposed,
    layers.Conv3DTranspose: _transposed,
    layers.MultiHeadAttention: _attention,
    layers.GroupQueryAttention: _attention,
    layers.ReversibleEmbedding: _reversible,
    layers.LSTM: _recurrent(4),
    layers.GRU: _recurrent(3),
    layers.SimpleRNN: _recurrent(1),
}
