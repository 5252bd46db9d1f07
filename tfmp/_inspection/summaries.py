"""`summary`: a model as `model.summary()` shows it, and its precisions."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp import recipes
from tfmp._keras import layer_parts
from tfmp._support import checks, tables
from tfmp.conversion.conversion_report import ConversionReport
from tfmp.conversion.records import flatten, stock_class, sublayers
from tfmp.conversion.rows import EMULATED, Row
from tfmp.conversion.sizes import Sizes

TITLES = (
    *("layer (type)", "output shape", "params", "precision", "recipe"),
    *("products", "FP8", "FLOPs"),
)
NARROWEST = 12  # characters that are left of a layer's name
MOST_SHAPES = 2  # products that are written out
STEP = len(recipes.PRODUCTS)  # products of a training step for one of a call


def summary(
    model: keras.Layer,
    line_length: int | None = None,
    print_fn: Callable[[str], Any] | None = None,
    expand_nested: bool = False,
    *,
    batch_size: int = 32,
    length: int = 512,
) -> None:
    """Prints a model's layers with precision, recipe, products and FLOPs.

    A layer with others inside has the sums of all that is in it.  `FP8` is
    how many products of a training step are in FP8, of how many: three for a
    product of the forward pass.  FLOPs are those of the matrix products in
    one forward pass, two for a multiply-add; a training step has three times
    as many.  How they are counted is said below, as in
    `tfmp.ConversionReport`.  The state of FP8 scaling counts as no parameter.

    Args:
        model: any Keras model or layer.
        line_length: characters, to which the names of layers are shortened;
            None leaves them whole.
        print_fn: called with each line; by default lines go to the standard
            output.
        expand_nested: whether to show what is inside of layers too.
        batch_size: what to assume for an open first length.
        length: what to assume for any other open length.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    >>> head = keras.layers.Dense(32, name="head")
    >>> summary(keras.Sequential([keras.Input([64]), head], name="net"))
    Model: "net" (Sequential)
    layer (type)  output shape  params  precision  recipe  products ...
    -----...
    head (Dense)  (None, 32)    2,080   float32            32 x 64 x 32 ...
    -----...
    Parameters: 2,080 (8.125 KiB), of which 2,080 are trained
    FLOPs: 131 k forward, 393 k a training step
    FP8: 0 of 3 products, 0.0% of the counted FLOPs of a training step
    Counted: all products of one symbolic call on float32 (32, 64) (batch 32...
    """
    checks.instance("model", model, keras.Layer, "a Keras model or layer")
    checks.boolean("expand_nested", expand_nested)
    if line_length is not None:
        checks.integer("line_length", line_length, 40)
    if print_fn is not None and not callable(print_fn):
        raise TypeError(
            f"`print_fn` must be a function. Received: {print_fn!r}"
        )
    show = print_fn or _print
    whole = _Whole.of(model, Sizes(batch_size, length))
    for line in whole.lines(expand_nested, line_length):
        show(line)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A model, its layers by path, and the rows of its report."""

    model: keras.Layer
    layers: dict[str, keras.Layer]
    report: ConversionReport

    @classmethod
    def of(cls, model: keras.Layer, sizes: Sizes) -> _Whole:
        return cls(model, flatten(model), ConversionReport(model, sizes=sizes))

    def lines(self, expand: bool, width: int | None) -> Iterator[str]:
        """Returns the lines of the table, and those of the totals."""
        top = next(iter(self.layers))
        rows = self.report.rows
        cells = [
            self._cells(path, depth, rows)
            for path, depth in self._shown(top, expand)
        ]
        table = tables.lines(_fitted([TITLES, *cells], width))
        rule = "-" * max(map(len, table))
        yield f'Model: "{top}" ({stock_class(self.model).__name__})'
        yield from (table[0], rule, *table[1:], rule)
        yield from self._totals(rows)

    def _shown(self, top: str, expand: bool) -> Iterator[tuple[str, int]]:
        """Yields the paths of the layers to show, and how deep each is."""
        above = top.count("/") + 1
        inside = [path for path in self.layers if path != top]
        for path in inside or [top]:
            depth = max(0, path.count("/") - above)
            sequential = isinstance(self.model, keras.Sequential)
            input_ = isinstance(self.layers[path], keras.layers.InputLayer)
            if (expand or not depth) and not (sequential and input_):
                yield path, depth

    def _cells(
        self, path: str, depth: int, rows: Sequence[Row]
    ) -> tuple[str, ...]:
        layer = self.layers[path]
        inside = [row for row in rows if _is_in(row.path, path)]
        working = [row for row in inside if row.products]
        name = path.rpartition("/")[2]
        kind = stock_class(layer).__name__
        low, every = _products_of(working)
        return (
            f"{'  ' * depth}{name} ({kind})",
            _output_shape(layer),
            _parameters(layer),
            _joined(row.precision for row in working) or layer.compute_dtype,
            _joined(_short(row.recipe) for row in working if row.recipe),
            _written_out(working),
            f"{low} of {every}" if every else "",
            _number(sum(row.flops for row in working)) if working else "",
        )

    def _totals(self, rows: Sequence[Row]) -> Iterator[str]:
        weights = list(_weights(self.model))
        trained = [w for w in weights if w.trainable]
        flops = sum(row.flops for row in rows)
        low, every = _products_of(rows)
        yield (
            f"Parameters: {_count(weights):,} ({_bytes(weights)}), of which "
            f"{_count(trained):,} are trained"
        )
        yield (
            f"FLOPs: {_number(flops)} forward, {_number(STEP * flops)} a "
            "training step"
        )
        yield (
            f"FP8: {low} of {every} products, {self.report.float8_share:.1%} "
            "of the counted FLOPs of a training step"
        )
        yield f"Counted: {self.report.counted}"
        if rest := self.report.not_counted:
            yield f"Not counted: {rest}"
        if emulated := self.report.emulated_products:
            yield f"Emulated: {emulated} of {every} products, {EMULATED}"
        if any(not layer.built for layer in self.layers.values()):
            yield "Layers that are not built count for nothing."


def _is_in(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}/")


def _products_of(rows: Iterable[Row]) -> tuple[int, int]:
    """Returns how many products of a training step are in FP8, and all."""
    counts = [
        (len(row.float8) * many, STEP * many)
        for row in rows
        for many in [len(row.products) * row.calls]
    ]
    return sum(low for low, _ in counts), sum(every for _, every in counts)


def _written_out(rows: Sequence[Row]) -> str:
    shapes = [shape for row in rows for shape in row.shapes]
    if len(shapes) <= MOST_SHAPES:
        return ", ".join(shapes)
    return f"{sum(len(row.products) * row.calls for row in rows)} products"


def _short(recipe: str | None) -> str:
    """Returns a preset's name for a recipe, else the recipe."""
    presets = {repr(value): name for name, value in recipes.PRESETS.items()}
    return presets.get(str(recipe), str(recipe))


def _joined(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _output_shape(layer: keras.Layer) -> str:
    try:
        outputs = layer.output
    except (AttributeError, ValueError):
        outputs = _computed(layer)
    shapes = [tuple(each.shape) for each in keras.tree.flatten(outputs)]
    return ", ".join(map(str, shapes)) or "?"


def _computed(layer: keras.Layer) -> Any:
    """Returns symbolic outputs of a layer that was only called eagerly."""
    config = (layer.built and layer.get_build_config()) or {}
    shape = config.get("input_shape")
    if not isinstance(shape, (tuple, list)):
        return []
    try:
        return keras.KerasTensor(layer.compute_output_shape(shape))
    except (NotImplementedError, TypeError, ValueError):
        return []


def _weights(layer: keras.Layer) -> Iterator[keras.Variable]:
    """Yields all weights, without the state of FP8 scaling."""
    for each in flatten(layer).values():
        yield from layer_parts.own_weights(each)


def _parameters(layer: keras.Layer) -> str:
    built = layer.built and all(each.built for each in sublayers(layer))
    return f"{_count(_weights(layer)):,}" if built else "not built"


def _count(weights: Iterable[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _bytes(weights: Iterable[keras.Variable]) -> str:
    total: float = sum(
        math.prod(weight.shape) * tf.as_dtype(weight.dtype).size
        for weight in weights
    )
    for unit in ("B", "KiB", "MiB", "GiB"):
        if total < 1024 or unit == "GiB":
            break
        total /= 1024
    return f"{total:.4g} {unit}"


def _number(value: float) -> str:
    """Returns a count with a unit: `1.2 G`."""
    for unit in ("", " k", " M", " G", " T"):
        if value < 1000 or unit == " T":
            break
        value /= 1000
    return f"{value:.3g}{unit}"


def _fitted(
    rows: Sequence[tuple[str, ...]], width: int | None
) -> list[tuple[str, ...]]:
    """Shortens the first column, so that a line has at most `width`."""
    if width is None:
        return list(rows)
    rest = max(map(len, tables.lines([("", *row[1:]) for row in rows])))
    room = max(NARROWEST, width - rest)
    return [(_cut(row[0], room), *row[1:]) for row in rows]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
