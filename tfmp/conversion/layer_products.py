"""The matrix products of a layer's forward pass, from its shapes alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from tfmp import recipes
from tfmp._keras import graph_nodes
from tfmp.conversion.graph_products import of_einsum
from tfmp.conversion.records import stock_class
from tfmp.conversion.sizes import Shape, Sizes
from tfmp.conversion.tracing import Call, Trace
from tfmp.cost_model import Product
from tfmp.layers import classes
from tfmp.layers.convolution import Float8Convolution

SPARSE = "its inputs are sparse, which no FP8 product takes"
ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)
RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)


@dataclasses.dataclass(frozen=True)
class Work:
    """The products of a layer in one forward pass.

    Attributes:
        products: of one call; of all of them where they are not alike.
        calls: how often it has these.
        source: where the sizes are from: `"call"`, a symbolic call of the
            model; `"build"`, what the layer was built for, which the layer
            around it may have made up.
        own_code: whether they are of code that is not Keras' layer's, so that
            no conversion changes them.
        hides: whether that code has more in loops or functions.
        is_called: whether the model calls the layer, as far as is known.
    """

    products: tuple[Product, ...] = ()
    calls: int = 1
    source: str = "build"
    own_code: bool = False
    hides: bool = False
    is_called: bool = True

    @property
    def flops(self) -> int:
        """Of all calls, two for a multiply-add."""
        return self.calls * sum(product.flops for product in self.products)


def work_of(
    layer: keras.Layer,
    sizes: Sizes,
    parent: keras.Layer | None = None,
    trace: Trace | None = None,
) -> Work:
    """Returns a layer's products; none if it has none, or is not built.

    Sublayers count for themselves: of an attention layer these are the
    products of scores and of values.

    Args:
        layer: built or not.
        sizes: what to assume for open lengths.
        parent: the layer that it is in, if any.
        trace: of a model that the layer is in.
    """
    own = _has_own_code(layer)
    if trace is None or trace.failure:
        built = products_of(layer, sizes, parent)
        once = isinstance(layer, layers.Embedding)
        calls = 1 if once else graph_nodes.calls(layer)
        return Work(tuple(built), calls, own_code=own)
    found = trace.of(layer)
    if isinstance(parent, RECURRENT):  # it counts its cell's
        return Work(source="call", own_code=own, is_called=bool(found))
    every = [_of_call(layer, call, own, sizes) for call in found]
    hides = own and any(call.hides for call in found)
    work = Work((), 0, "call", own, hides, bool(found))
    if every and every.count(every[0]) == len(every):
        calls = sum(call.repeats for call in found)
        return dataclasses.replace(work, products=every[0], calls=calls)
    together = [
        product
        for products, call in zip(every, found, strict=True)
        for product in products * call.repeats
    ]
    return dataclasses.replace(work, products=tuple(together), calls=1)


def _of_call(
    layer: keras.Layer, call: Call, own: bool, sizes: Sizes
) -> tuple[Product, ...]:
    """Returns the products of one call: by the formula, or of the graph."""
    if own or isinstance(layer, layers.ReversibleEmbedding):
        return call.products
    shapes = call.shapes[: 2 if isinstance(layer, ATTENTION) else 1]
    return tuple(_by_formula(layer, list(shapes), sizes)) or call.products


def has_formula(layer: keras.Layer) -> bool:
    """Whether it is of a class of Keras with products, or of a subclass."""
    return _base(stock_class(layer)) is not None


def _has_own_code(layer: keras.Layer) -> bool:
    """Whether no formula here says what the layer multiplies."""
    stock = stock_class(layer)
    base = _base(stock)
    return base is None or bool(classes.overridden(stock, base))


def _base(cls: type) -> type | None:
    return next((base for base in cls.__mro__ if base in _PRODUCTS), None)


def products_of(
    layer: keras.Layer, sizes: Sizes, parent: keras.Layer | None = None
) -> list[Product]:
    """Returns a layer's products by what it was built for; see `work_of`."""
    shapes = build_shapes(layer)
    if isinstance(parent, ATTENTION) and layer.name == "attention_output":
        shapes = _after_attention(layer, parent) or shapes
    return _by_formula(layer, shapes, sizes)


def _by_formula(
    layer: keras.Layer, shapes: list[Any], sizes: Sizes
) -> list[Any]:
    """Returns what the formula of a layer's class says; [] if it fails.

    Shapes may be made up, and a subclass may have anything as attributes.
    """
    base = _base(type(layer))
    try:
        filled = [sizes.fill(shape) for shape in shapes]
        return _PRODUCTS[base](layer, *filled) if base and filled else []
    except Exception:
        return []


def not_in_float8(layer: keras.Layer) -> dict[str, str]:
    """Returns why products of a layer cannot run in FP8, by product.

    Those of convolutions that are built, and of sparse inputs.
    """
    if graph_nodes.takes_sparse(layer):
        return dict.fromkeys(recipes.PRODUCTS, SPARSE)
    ours = classes.ours_for(type(layer))
    shapes = build_shapes(layer)
    if not shapes or not hasattr(ours, "float8_products"):
        return {}
    lost = ours.float8_products(layer, shapes[0])  # type: ignore[union-attr]
    if not _is_pointwise(layer, shapes[0]):
        lost |= {"kernel_grad": "GPUs have no FP8 kernel for it"}
    return {product: why for product, why in lost.items() if why}


def _is_pointwise(layer: keras.Layer, shape: Sequence[int | None]) -> bool:
    return Float8Convolution.as_convolution(layer, shape).pointwise


def build_shapes(layer: keras.Layer) -> list[tuple[int | None, ...]]:
    """Returns what a layer was built for, as the code around it said."""
    config = (layer.built and layer.get_build_config()) or {}
    if not isinstance(config, dict):
        return []
    shapes = config.get("shapes_dict") or {"input": config.get("input_shape")}
    return [
        tuple(shape)
        for shape in shapes.values()
        if isinstance(shape, (tuple, list))
        and all(n is None or isinstance(n, int) for n in shape)
    ]


def _after_attention(layer: keras.Layer, attention: keras.Layer) -> list[Any]:
    """Keras builds this layer with an open length; it is the query's."""
    if "build" in classes.overridden(stock_class(attention)):
        return []
    query = build_shapes(attention)[:1]
    return [(*shape[:-1], *layer.kernel.shape[:-1]) for shape in query]


def _dense(layer: keras.Layer, shape: Shape) -> list[Product]:
    return [Product(math.prod(shape[:-1]), shape[-1], layer.units)]


def _einsum_dense(layer: keras.Layer, shape: Shape) -> list[Product]:
    return [of_einsum(layer.equation, shape, tuple(layer.kernel.shape))]


def _pixels(layer: keras.Layer, shape: Shape) -> tuple[int, int, int]:
    """Returns pixels of input and output, each times batch, and channels."""
    last = layer.data_format == "channels_last"

    def count(shape: Shape) -> int:
        return shape[0] * math.prod(shape[1:-1] if last else shape[2:])

    output = layer.compute_output_shape(shape)
    return count(shape), count(output), shape[-1] if last else shape[1]


def _conv(layer: keras.Layer, shape: Shape) -> list[Product]:
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


def _depthwise(layer: keras.Layer, shape: Shape) -> list[Product]:
    before, after, channels = _pixels(layer, shape)
    window, columns = math.prod(layer.kernel_size), layer.depth_multiplier
    return [Product(after, window, columns, channels, before * channels)]


def _separable(layer: keras.Layer, shape: Shape) -> list[Product]:
    _, after, channels = _pixels(layer, shape)
    depthwise = _depthwise(layer, shape)
    inner = channels * layer.depth_multiplier
    return [*depthwise, Product(after, inner, layer.filters)]


def _transposed(layer: keras.Layer, shape: Shape) -> list[Product]:
    before, _, channels = _pixels(layer, shape)
    columns = layer.filters * math.prod(layer.kernel_size)
    return [Product(before, channels, columns)]


def _attention(layer: Any, query: Shape, value: Shape, *_: Shape) -> list[Any]:
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


def _reversible(layer: keras.Layer, shape: Shape) -> list[Product]:
    """A lookup, and the logits if it is called in reverse."""
    logits = Product(math.prod(shape), layer.output_dim, layer.input_dim)
    return [logits] * graph_nodes.reversed_calls(layer)


def _recurrent(gates: int) -> Callable[..., list[Product]]:
    def products(layer: keras.Layer, shape: Shape, *_: Shape) -> list[Product]:
        """Returns the products of inputs, and of states in each step."""
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
