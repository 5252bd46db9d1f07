"""What lowering the precision of a layer does, as values."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tfmp._support import checks, tables
from tfmp.analysis.reals import real, reals
from tfmp.analysis.tallies import decibels
from tfmp.analysis.variants import ROLES, WHOLE

METHODS = ("estimate", "measure")
TITLES = (
    *("layer", "role", "candidate", "SQNR dB", "output", "gradient"),
    *("cosine", "loss change", "loss rms", "expected"),
)


@dataclasses.dataclass(frozen=True)
class Effect:
    """What becomes of a model if one layer is in a lower precision.

    An estimate compares what the layer itself gives, outputs and gradients;
    a measurement what the whole model gives.

    Attributes:
        layer: path of the layer.
        role: `"layer"`, as it would run; or of the tensors that it multiplies
            only one: `"inputs"`, `"kernel"` or `"grads"`.
        candidate: name of the precision.
        sqnr: signal-to-quantization-noise ratio of the role's tensor, in dB;
            of `"layer"`, that of the outputs.
        output_error: `norm(low - exact) / norm(exact)` of the outputs.
        gradient_error: the same of the gradients; an estimate has two, of the
            layer's inputs and of its weights, and tells the larger.
        gradient_cosine: of the gradients; of two the smaller.
        loss_change: of the mean loss on these data.  It is the sum of many
            changes of either sign, so that of other data it says little.
        loss_rms: root of the mean square of the changes of each sample's loss.

    >>> row = Effect("net/a", "layer", "mixed_float8", 20.0, 0.1, 0.1, 0.995,
    ...              0.001, 0.02)
    >>> row.output_error
    0.1
    """

    layer: str
    role: str
    candidate: str
    sqnr: float
    output_error: float
    gradient_error: float
    gradient_cosine: float
    loss_change: float
    loss_rms: float

    def __post_init__(self) -> None:
        checks.fields(self, layer=str, candidate=str)
        checks.choice("role", self.role, ROLES)
        reals(self, *(field.name for field in dataclasses.fields(self)[3:]))


@dataclasses.dataclass(frozen=True, repr=False)
class Sensitivity:
    """What each layer's precision costs; printing it gives a table.

    Attributes:
        method: `"estimate"` or `"measure"`.
        rows: an `Effect` for each layer, role and candidate.
        reference: the precision that all are compared to.
        loss: mean of the reference on these data.
        samples: how many there were.
        terms: numbers that a sample adds to the loss, such as its tokens.
        scale: how many times the loss is a negative log-likelihood: 1 of a
            cross-entropy, about twice the loss of a squared error.
        seconds: that the analysis took.
        notes: what else to know.

    >>> result = Sensitivity("measure", (), "float32", 2.0, 64)
    >>> Sensitivity.from_json(result.to_json()) == result
    True
    """

    method: str
    rows: tuple[Effect, ...]
    reference: str
    loss: float
    samples: int
    terms: int = 1
    scale: float = 1.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.choice("method", self.method, METHODS)
        said = "a tuple of tfmp.analysis.Effect"
        checks.sequence("rows", self.rows, Effect, said)
        checks.sequence("notes", self.notes, str, "a tuple of strings")
        checks.fields(self, reference=str)
        reals(self, "loss", "seconds")
        checks.number("scale", self.scale, sys.float_info.min, math.inf)
        checks.integer("samples", self.samples, 1)
        checks.integer("terms", self.terms, 1, 2**62)

    def expected_increase(self, row: Effect) -> float:
        """Returns how much the loss is expected to rise on data like these.

            terms * loss_rms**2 / (2 * scale)

        the term of second order of Taylor's series.  For a log-likelihood the
        second derivative is the mean square of the first one, which is what
        `loss_rms` is made of; the term of first order has a mean of zero.

        Args:
            row: one of `rows`.

        Raises:
            TypeError: if `row` is no `Effect`.
        """
        said = "a tfmp.analysis.Effect"
        row = checks.instance("row", row, Effect, said)
        rms = float(row.loss_rms)
        return self.terms * rms * rms / (2 * self.scale)

    def percent(self, change: float) -> float:
        """Returns a change of the loss in percent of the reference's.

        Args:
            change: of the loss.

        Raises:
            TypeError, ValueError: if it is no number.
        """
        change, loss = real("change", change), abs(float(self.loss))
        return 100 * change / loss if loss else math.nan

    def only(self, role: str = WHOLE) -> tuple[Effect, ...]:
        """Returns the rows of one role.

        Raises:
            ValueError: if `role` is unknown.
        """
        checks.choice("role", role, ROLES)
        return tuple(row for row in self.rows if row.role == role)

    def table(self) -> str:
        """Returns a line for each row, for the terminal.

        Changes of the loss are in percent of it.
        """
        cells = [TITLES, *map(self._cells, self.rows)]
        return "\n".join(tables.lines(cells))

    def _cells(self, row: Effect) -> tuple[str, ...]:
        expected = self.percent(self.expected_increase(row))
        return (
            row.layer,
            row.role,
            row.candidate,
            f"{row.sqnr:.1f}",
            f"{row.output_error:.2e}",
            f"{row.gradient_error:.2e}",
            f"{row.gradient_cosine:.6f}",
            f"{self.percent(row.loss_change):+.4f} %",
            f"{self.percent(row.loss_rms):.4f} %",
            f"{expected:.2e} %",
        )

    def __str__(self) -> str:
        how = {"estimate": "estimated", "measure": "measured"}[self.method]
        lines = [
            self.table(),
            f"{how} against {self.reference} on {self.samples} samples in "
            f"{self.seconds:.1f} s; loss {self.loss:.6g}",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serialisable values."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return found

    def to_json(self) -> str:
        """Returns everything as JSON, that `from_json` reads."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """Rebuilds it from `to_json()`.

        Raises:
            TypeError: if `text` is no string.
            ValueError: if it is not what `to_json` wrote.
        """
        checks.instance("text", text, str, "a string")
        try:
            values = json.loads(text)
            rows = tuple(Effect(**_numbers(row)) for row in values.pop("rows"))
            notes = tuple(values.pop("notes"))
            return cls(rows=rows, notes=notes, **_numbers(values))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`text` must be what `to_json` wrote ({error}). "
                f"Received: {text!r:.200}"
            ) from error

    def plot(self, path: Any, role: str = WHOLE) -> None:
        """Draws what each layer costs, as a PNG file.

        Args:
            path: of the file.
            role: whose rows.

        Raises:
            ImportError: if matplotlib is missing.
            TypeError, ValueError: if an argument is not allowed.
        """
        # Here, as only who draws has matplotlib.
        from tfmp.analysis import pictures

        bars = [
            (
                row.layer,
                row.candidate,
                self.percent(self.expected_increase(row)),
            )
            for row in self.only(role)
        ]
        pictures.bars(path, bars, f"{self.method}, {role}")


def rows_of(
    tally: Any, keys: Iterable[Any], whole_model: bool
) -> Iterator[Effect]:
    """Yields the effects that sums over batches stand for.

    Args:
        tally: a `Tally`.
        keys: whose, in this order; without those that nothing is known of.
        whole_model: whether the gradients are in one piece.
    """
    groups = ("gradients",) if whole_model else ("inputs", "weights")
    known = tally.keys()
    for key in (key for key in keys if key in known):
        output = tally.error(key, "output")
        tensor = output if key[1] == WHOLE else tally.error(key, "tensor")
        errors = [tally.error(key, group) for group in groups]
        cosines = [tally.cosine(key, group) for group in groups]
        layer, role, candidate = key
        yield Effect(
            layer,
            role,
            candidate,
            decibels(tensor),
            output,
            _worst(max, errors),
            _worst(min, cosines),
            tally.change(key),
            math.sqrt(tally.square(key)),
        )


def _worst(choose: Any, values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(choose(known)) if known else math.nan


def _plain(value: Any) -> Any:
    """JSON has no infinities: they become strings."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    special = ("inf", "-inf", "nan")
    return {k: float(v) if v in special else v for k, v in values.items()}
