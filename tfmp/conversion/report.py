"""The report of a conversion: what each layer runs in, and why."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import keras
from keras import layers

from tfmp import checks, internals, recipes, tables
from tfmp.conversion.defaults import OWN_CODE, PREPARES
from tfmp.conversion.inputs import rounded_for
from tfmp.conversion.products import Sizes, not_in_float8, products_of
from tfmp.conversion.records import flatten, record_of, stock_class, sublayers
from tfmp.layers.attention import Float8Attention
from tfmp.layers.contraction import Float8Layer

TITLES = ("layer", "type", "precision", "products", "share", "why")
EMULATED = "multiplied in float32, which is no FP8 and no faster"


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
        calls: how often a functional model calls the layer.
        flops: of the products in one forward pass, two for a multiply-add;
            each gradient has as many.
        reason: why it has its precision.
        emulated: which of its products are emulated; none of them is FP8.
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

    @property
    def is_shown(self) -> bool:
        """Whether it has a line in the table: products, maybe unknown ones."""
        return bool(self.products) or self.reason == OWN_CODE.reason


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What a model runs in, layer by layer; printing it gives a table.

    It looks at the model each time, so that layers that are built later show
    up.  FLOPs are those of the matrix products in one forward pass.

    Args:
        model: any Keras model or layer.
        rule: how the conversion chose.
        sizes: what to assume for lengths the model leaves open.
        notes: what else to know.

    >>> model = keras.Sequential([keras.Input([64]), layers.Dense(32)])
    >>> Report(model).rows[0].products
    ('32 x 64 x 32',)
    """

    model: keras.Layer
    rule: str = ""
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.fields(self, model=keras.Layer, rule=str, sizes=Sizes)
        checks.sequence("notes", self.notes, str, "a tuple of strings")

    @property
    def rows(self) -> list[Row]:
        """All layers with products or weights, in the model's order."""
        every = flatten(self.model)
        rows = [
            _row(path, layer, _above(every, path), self.sizes)
            for path, layer in every.items()
        ]
        return [row for row in rows if row is not None]

    @property
    def others(self) -> dict[tuple[str, str], int]:
        """How many layers the table leaves out, by class and precision."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        listed = {row.path for row in self.rows if row.is_shown}
        for path, layer in flatten(self.model).items():
            whole = sublayers(layer) or isinstance(layer, layers.InputLayer)
            if path not in listed and not whole:
                counts[type(layer).__name__, _precision(layer)] += 1
        return dict(counts)

    @property
    def own_code(self) -> list[str]:
        """Classes of layers whose code is neither Keras' nor of tfmp."""
        every = map(stock_class, flatten(self.model).values())
        known = ("keras", "tfmp")
        return sorted(
            {cls.__name__ for cls in every if _code_of(cls) not in known}
        )

    @property
    def rounded(self) -> dict[str, str]:
        """What the data are rounded by that layers prepare in float32."""
        every = flatten(self.model)
        said = {
            path: rounded_for(layer, _above(every, path))
            for path, layer in every.items()
        }
        return {path: text for path, text in said.items() if text}

    @property
    def float8_share(self) -> float:
        """The share of a training step's FLOPs in FP8, from 0 to 1."""
        rows = self.rows
        low = sum(row.flops * len(row.float8) for row in rows)
        every = sum(row.flops * len(recipes.PRODUCTS) for row in rows)
        return low / max(1, every)

    @property
    def float8_products(self) -> int:
        """How many products of a training step run in FP8."""
        return sum(
            len(row.float8) * len(row.products) * row.calls for row in self.rows
        )

    @property
    def emulated_products(self) -> int:
        """How many products of a training step are emulated, in float32."""
        return sum(
            len(row.emulated) * len(row.products) * row.calls
            for row in self.rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serialisable values."""
        return {
            "rule": self.rule,
            "batch_size": self.sizes.batch_size,
            "length": self.sizes.length,
            "notes": list(self.notes),
            "own_code": self.own_code,
            "rounded": self.rounded,
            "float8_share": self.float8_share,
            "float8_products": self.float8_products,
            "emulated_products": self.emulated_products,
            "layers": [dataclasses.asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        rows = [row for row in self.rows if row.is_shown]
        some = sum(bool(row.products) for row in rows)
        total = max(1, sum(row.flops for row in rows))
        low = sum(row.precision == "float8" for row in rows)
        lines = tables.lines([TITLES, *(_cells(row, total) for row in rows)])
        lines += [
            f"FP8: {low} of {some} layers with products, "
            f"{self.float8_products} products, {self.float8_share:.1%} of a "
            f"training step's FLOPs (batch {self.sizes.batch_size}, length "
            f"{self.sizes.length} where the model leaves them open)"
        ]
        if emulated := self.emulated_products:
            lines.append(f"emulated: {emulated} products, {EMULATED}")
        others = [
            f"{count} {name} ({dtype})"
            for (name, dtype), count in self.others.items()
        ]
        if others:
            lines.append(f"without products: {', '.join(others)}")
        if self.own_code:
            lines.append(
                "not looked into, so that products there are not counted: the "
                f"code of {', '.join(self.own_code)}"
            )
        if self.rule:
            lines.append(f"chosen: {self.rule}")
        notes = [f"{path}: {text}" for path, text in self.rounded.items()]
        notes += self.notes
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])

    __repr__ = __str__


def _above(every: dict[str, keras.Layer], path: str) -> list[keras.Layer]:
    """Returns the layers that one is in, the nearest last."""
    names = path.split("/")
    paths = ("/".join(names[:n]) for n in range(1, len(names)))
    return [every[above] for above in paths if above in every]


def _row(
    path: str, layer: keras.Layer, above: list[keras.Layer], sizes: Sizes
) -> Row | None:
    products = products_of(layer, sizes, above[-1] if above else None)
    if not products and not internals.own_weights(layer):
        return None
    recipe = _recipe(layer)
    looks_up = isinstance(layer, layers.Embedding)
    record, calls = record_of(layer), 1 if looks_up else internals.calls(layer)
    emulates = recipe is not None and recipe.emulates
    lost = not_in_float8(layer) if recipe and not emulates else {}
    reasons = [record.reason] if record and record.reason else []
    reasons += [f"{recipe}: {EMULATED}"] if emulates else []
    if layer.quantization_mode is not None:
        reasons = [f"Keras has quantized it: {layer.quantization_mode}"]
    if internals.is_preprocessing(layer):
        reasons = [PREPARES.reason]
    return Row(
        path,
        stock_class(layer).__name__,
        _named(recipe, layer.compute_dtype),
        None if recipe is None else repr(recipe),
        tuple(map(str, products)),
        tuple(p for p in recipes.PRODUCTS if _runs(p, recipe, lost)),
        calls,
        calls * sum(product.flops for product in products),
        "; ".join(reasons + [f"{p}: {why}" for p, why in lost.items()]),
        tuple(p for p in recipes.PRODUCTS if emulates and _lowers(recipe, p)),
    )


def _named(recipe: recipes.Recipe | None, dtype: str) -> str:
    """Returns what a layer's precision is called."""
    if recipe is None:
        return dtype
    return "emulated" if recipe.emulates else "float8"


def _precision(layer: keras.Layer) -> str:
    """Returns what a layer computes in, or will when it is built."""
    recipe = _recipe(layer)
    if recipe is not None and not layer.built:
        return f"{_named(recipe, '')} once it is built"
    return str(layer.compute_dtype)


def _code_of(cls: Any) -> str:
    """Returns the package that a class's `call` is from."""
    return cls.call.__module__.partition(".")[0]


def _recipe(layer: keras.Layer) -> recipes.Recipe | None:
    """Returns the recipe of a layer's own products, None without."""
    if isinstance(layer, Float8Layer):
        return layer.recipe
    if isinstance(layer, Float8Attention) and layer.recipe is not None:
        return layer.recipe if layer.recipe.attention else None
    return None


def _runs(
    product: str, recipe: recipes.Recipe | None, lost: dict[str, str]
) -> bool:
    low = recipe is not None and recipe.in_float8(product)
    return low and product not in lost


def _lowers(recipe: recipes.Recipe | None, product: str) -> bool:
    return recipe is not None and recipe.lowers(product)


def _cells(row: Row, total: int) -> tuple[str, ...]:
    share = f"{row.flops / total:.1%}" if row.flops else ""
    products = ", ".join(row.products)
    return row.path, row.type, row.precision, products, share, row.reason
