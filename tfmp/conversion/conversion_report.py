"""The report of a conversion: what each layer runs in, and why."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import keras
from keras import layers

from tfmp import recipes
from tfmp._keras import layer_parts
from tfmp._support import checks, tables
from tfmp.conversion.input_casts import rounded_for
from tfmp.conversion.layer_products import work_of
from tfmp.conversion.records import flatten, stock_class, sublayers
from tfmp.conversion.rows import EMULATED, Row, precision_of, row_of
from tfmp.conversion.sizes import Sizes, specs_of
from tfmp.conversion.tracing import Trace, trace

TITLES = ("layer", "type", "precision", "products", "share", "why")


@dataclasses.dataclass(frozen=True, repr=False)
class ConversionReport:
    """What a model runs in, layer by layer; printing it gives a table.

    It looks at the model each time, so that layers that are built later show
    up.  FLOPs are those of the matrix products in one forward pass, of layers
    and of code around them.  They are counted in one symbolic call of the
    model, which computes nothing, if it says what it takes or `inputs` do;
    else by what each layer was built for, which the code around it may have
    made up.  Printed, it says which.

    Args:
        model: any Keras model or layer.
        rule: how the conversion chose.
        sizes: what to assume for lengths the model leaves open.
        notes: what else to know.
        inputs: what to call the model on, arrays or specs; None is what it
            was built for.

    >>> model = keras.Sequential([keras.Input([64]), layers.Dense(32)])
    >>> ConversionReport(model).rows[0].products
    ('32 x 64 x 32',)
    """

    model: keras.Layer
    rule: str = ""
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    notes: tuple[str, ...] = ()
    inputs: Any = None
    _known: dict[Any, Trace] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        checks.fields(self, model=keras.Layer, rule=str, sizes=Sizes)
        checks.sequence("notes", self.notes, str, "a tuple of strings")
        if self.inputs is not None:
            specs = specs_of(self.inputs, self.sizes)
            object.__setattr__(self, "inputs", specs)

    def after(self, rule: str, notes: tuple[str, ...]) -> ConversionReport:
        """Returns the report of the model after a conversion.

        Args:
            rule: how the conversion chose.
            notes: what else to know.
        """
        report = dataclasses.replace(self, rule=rule, notes=notes)
        report._known.update(self._known)  # no size has changed
        return report

    @property
    def trace(self) -> Trace:
        """What a symbolic call of the model, as it is built now, showed."""
        every = flatten(self.model).values()
        state = tuple((id(layer), layer.built) for layer in every)
        if state not in self._known:
            self._known.clear()
            self._known[state] = trace(self.model, self.sizes, self.inputs)
        return self._known[state]

    @property
    def rows(self) -> list[Row]:
        """All layers with products or weights, in the model's order."""
        every, seen = flatten(self.model), self.trace
        rows = []
        for path, layer in every.items():
            above = _above(every, path)
            parent = above[-1] if above else None
            work = work_of(layer, self.sizes, parent, seen)
            if work.products or work.hides or layer_parts.own_weights(layer):
                rows.append(row_of(path, layer, work))
        return rows

    @property
    def others(self) -> dict[tuple[str, str], int]:
        """How many layers the table leaves out, by class and precision."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        listed = {row.path for row in self.rows if row.is_shown}
        for path, layer in flatten(self.model).items():
            whole = sublayers(layer) or isinstance(layer, layers.InputLayer)
            if path not in listed and not whole:
                counts[type(layer).__name__, precision_of(layer)] += 1
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
    def counted(self) -> str:
        """Which products are counted, and at what sizes."""
        assumed = f"{self.sizes} where the model leaves them open"
        if failure := self.trace.failure:
            return (
                f"Keras' layers, by what each was built for ({assumed}), "
                f"which may be made up: {failure}"
            )
        said = f"all products of one symbolic call on {self.trace.inputs}"
        return said if self.inputs is not None else f"{said} ({assumed})"

    @property
    def not_counted(self) -> str:
        """Where products are that are not counted, "" if nowhere."""
        if self.trace.failure:
            names = self.own_code
            return f"the code of {', '.join(names)}" if names else ""
        names = sorted({row.type for row in self.rows if row.hides})
        if not names:
            return ""
        return f"loops and functions in the code of {', '.join(names)}"

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
        """The share in FP8 of a training step's FLOPs, from 0 to 1.

        Of those that are counted: see `counted` and `not_counted`.
        """
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
            "counted": self.counted,
            "not_counted": self.not_counted,
            "float8_share": self.float8_share,
            "float8_products": self.float8_products,
            "emulated_products": self.emulated_products,
            "layers": [dataclasses.asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        rows = [row for row in self.rows if row.is_shown]
        some = sum(bool(row.products) for row in rows)
        total = max(1, sum(row.flops for row in rows))
        low = sum(bool(row.float8 and row.products) for row in rows)
        lines = tables.lines([TITLES, *(_cells(row, total) for row in rows)])
        lines += [
            f"FP8: {low} of {some} layers with products, "
            f"{self.float8_products} products, {self.float8_share:.1%} of the "
            "counted FLOPs of a training step",
            f"counted: {self.counted}",
        ]
        if self.not_counted:
            lines.append(f"not counted: {self.not_counted}")
        if emulated := self.emulated_products:
            lines.append(f"emulated: {emulated} products, {EMULATED}")
        others = [
            f"{count} {name} ({dtype})"
            for (name, dtype), count in self.others.items()
        ]
        if others:
            lines.append(f"without products: {', '.join(others)}")
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


def _code_of(cls: Any) -> str:
    """Returns the package that a class's `call` is from."""
    found: str = cls.call.__module__.partition(".")[0]
    return found


def _cells(row: Row, total: int) -> tuple[str, ...]:
    share = f"{row.flops / total:.1%}" if row.flops else ""
    shapes = ", ".join(row.shapes)
    return row.path, row.type, row.precision, shapes, share, row.reason
