"""The layers of a model whose precision makes a difference."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfmp._keras import layer_parts
from tfmp.analysis.candidates import Candidate
from tfmp.conversion.defaults import PRODUCT, default_of
from tfmp.conversion.layer_products import (
    ATTENTION,
    build_shapes,
    has_formula,
    not_in_float8,
    work_of,
)
from tfmp.conversion.records import flatten, stock_class, sublayers
from tfmp.conversion.sizes import Sizes
from tfmp.conversion.tracing import Trace
from tfmp.cost_model import Product
from tfmp.layers import classes


@dataclasses.dataclass(frozen=True)
class Subject:
    """A layer with products, and all that gets its precision with it.

    Attributes:
        path: of the layer.
        layer: the layer.
        shapes: of its inputs, at the sizes asked for.
        products: of its forward pass, at these sizes.
        members: the layer, and those inside that are no subjects.
        has_roles: whether it is one product of an input and a kernel.
        calls: how often the model calls it.
    """

    path: str
    layer: keras.Layer
    shapes: tuple[tuple[int, ...], ...]
    products: tuple[Product, ...]
    members: tuple[keras.Layer, ...]
    has_roles: bool
    calls: int = 1

    @property
    def kernel(self) -> Any:
        """The variable of the kernel."""
        return layer_parts.stored_kernel(self.layer)

    def takes(self, candidate: Candidate) -> bool:
        """Whether a conversion would give the layer this precision."""
        recipe = candidate.recipe
        if recipe is None:
            return True
        if isinstance(self.layer, ATTENTION):
            flash = getattr(self.layer, "_flash_attention", False)
            return bool(recipe.attention) and not flash
        lost = {} if recipe.emulates else not_in_float8(self.layer)
        return self.has_roles and "output" not in lost


def find(
    model: keras.Layer, sizes: Sizes, trace: Trace | None = None
) -> tuple[Subject, ...]:
    """Returns the subjects of a model, in its order.

    Args:
        model: built.
        sizes: what to assume for open lengths.
        trace: of a symbolic call, for the sizes of products.
    """
    every = flatten(model)
    works = {
        path: work_of(layer, sizes, every.get(path.rpartition("/")[0]), trace)
        for path, layer in every.items()
        if _can_change(layer) and has_formula(layer)
    }
    chosen = {path: work for path, work in works.items() if work.products}
    taken = {id(every[path]) for path in chosen}
    return tuple(
        Subject(
            path,
            every[path],
            _shapes(every[path], sizes, trace),
            work.products,
            tuple(_members(every[path], taken)),
            _has_roles(every[path]),
            work.calls,
        )
        for path, work in chosen.items()
    )


def _can_change(layer: keras.Layer) -> bool:
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    found: bool = keras.backend.is_float_dtype(layer.compute_dtype)
    return found


def _shapes(
    layer: keras.Layer, sizes: Sizes, trace: Trace | None
) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes that a layer is first called on, or was built for."""
    built = build_shapes(layer)
    calls = trace.of(layer) if trace is not None else []
    shapes = calls[0].shapes[: len(built)] if calls else built
    return tuple(map(sizes.fill, shapes))


def _has_roles(layer: keras.Layer) -> bool:
    stock = stock_class(layer)
    own = classes.overridden(stock)
    lora = getattr(layer, "lora_enabled", False)
    return default_of(layer) is PRODUCT and not own and not lora


def _members(layer: keras.Layer, taken: set[int]) -> list[keras.Layer]:
    found = [layer]
    for child in sublayers(layer):
        if id(child) not in taken and _can_change(child):
            found += _members(child, taken)
    return found
