"""One line of a report: a layer, its products, and what they run in."""

from __future__ import annotations

import dataclasses

import keras

from tfmp import recipes
from tfmp._keras import layer_kinds
from tfmp.conversion.defaults import ELEMENTWISE, OWN_CODE, PREPARES
from tfmp.conversion.layer_choice import NOT_CALLED
from tfmp.conversion.layer_products import Work, not_in_float8
from tfmp.conversion.records import record_of, stock_class
from tfmp.layers.layer_recipes import recipe_of_products

OWN_PRODUCTS = "products in code of its own, not in FP8"
UNSEEN = {ELEMENTWISE.reason, OWN_CODE.reason}  # said without a call
EMULATED = "multiplied in float32, which is not FP8 and not faster"


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer that has products or weights of its own.

    Attributes:
        path: of the layer.
        type: name of its Keras class.
        precision: `"float8"`, `"emulated"`, or the dtype it computes in.
        recipe: of its FP8 or emulated products, None without.
        products: shapes of its products, `m x k x n`.
        float8: which of `"output"`, `"input_grad"` and `"kernel_grad"` run
            in FP8.
        calls: how often the model calls the layer, with such products.
        flops: of the products in one forward pass, two for a multiply-add;
            each gradient has as many.
        reason: why it has its precision.
        emulated: which of its products are emulated; none of them is FP8.
        sizes: where those of its products are from: `"call"`, a symbolic call
            of the model; `"build"`, what the layer was built for.
        hides: whether its own code has loops or functions of TensorFlow,
            whose products are not counted.
    """

    path: str
    type: str
    precision: str
    recipe: str | None
    products: tuple[str, ...]
    float8: tuple[str, ...]
    calls: int
    flops: int
    reason: str
    emulated: tuple[str, ...] = ()
    sizes: str = "build"
    hides: bool = False

    @property
    def shapes(self) -> tuple[str, ...]:
        """Its products, each with how often the model runs it."""
        if self.calls < 2:
            return self.products
        return tuple(f"{self.calls} of {shape}" for shape in self.products)

    @property
    def is_shown(self) -> bool:
        """Whether it has a line in the table: products, maybe unknown ones."""
        unknown = self.sizes == "build" and self.reason == OWN_CODE.reason
        return bool(self.products) or unknown or self.hides


def row_of(path: str, layer: keras.Layer, work: Work) -> Row:
    """Returns the line of a layer, with the products that it has."""
    recipe = recipe_of_products(layer)
    record = record_of(layer)
    emulates = recipe is not None and recipe.emulates
    lost = not_in_float8(layer) if recipe and not emulates else {}
    reasons = [record.reason] if record and record.reason else []
    reasons += [f"{recipe}: {EMULATED}"] if emulates else []
    if layer.quantization_mode is not None:
        reasons = [f"Keras has quantized it: {layer.quantization_mode}"]
    if layer_kinds.is_preprocessing(layer):
        reasons = [PREPARES.reason]
    if work.own_code and work.products and set(reasons) <= UNSEEN:
        reasons = [OWN_PRODUCTS]
    if not work.is_called:
        reasons = [NOT_CALLED, *reasons]
    return Row(
        path,
        stock_class(layer).__name__,
        _named(recipe, layer.compute_dtype),
        None if recipe is None else repr(recipe),
        tuple(map(str, work.products)),
        tuple(p for p in recipes.PRODUCTS if _runs(p, recipe, lost)),
        work.calls,
        work.flops,
        "; ".join(reasons + [f"{p}: {why}" for p, why in lost.items()]),
        tuple(p for p in recipes.PRODUCTS if emulates and _lowers(recipe, p)),
        work.source,
        work.hides,
    )


def precision_of(layer: keras.Layer) -> str:
    """Returns what a layer computes in, or will when it is built."""
    recipe = recipe_of_products(layer)
    if recipe is not None and not layer.built:
        return f"{_named(recipe, '')} once it is built"
    return str(layer.compute_dtype)


def _named(recipe: recipes.Recipe | None, dtype: str) -> str:
    """Returns what a layer's precision is called."""
    if recipe is None:
        return dtype
    return "emulated" if recipe.emulates else "float8"


def _runs(
    product: str, recipe: recipes.Recipe | None, lost: dict[str, str]
) -> bool:
    low = recipe is not None and recipe.in_float8(product)
    return low and product not in lost


def _lowers(recipe: recipes.Recipe | None, product: str) -> bool:
    return recipe is not None and recipe.lowers(product)
