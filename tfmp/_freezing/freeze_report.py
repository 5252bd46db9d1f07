"""The report of `freeze`: what each layer keeps, and in how many bytes."""

from __future__ import annotations

import dataclasses

from tfmp._support import checks, tables

TITLES = ("layer", "type", "bytes before", "after", "kernel", "scale of inputs")


@dataclasses.dataclass(frozen=True)
class FrozenRow:
    """One layer with weights.

    Attributes:
        path: of the layer.
        type: name of its Keras class.
        before: bytes of its weights before.
        after: bytes of its weights now.
        kernel: what became of its kernel, or why it stays.
        inputs: where the scale of its inputs comes from; "" if it stays.

    >>> FrozenRow("model/dense", "Dense", 64, 24, "E4M3", "2**3").after
    24
    """

    path: str
    type: str
    before: int
    after: int
    kernel: str
    inputs: str = ""

    def __post_init__(self) -> None:
        checks.fields(self, path=str, type=str, before=int, after=int)
        checks.fields(self, kernel=str, inputs=str)


@dataclasses.dataclass(frozen=True, repr=False)
class FreezeReport:
    """What `tfmp.freeze` did; printing it gives a table.

    Attributes:
        rows: one for each layer with weights.

    >>> print(FreezeReport((FrozenRow("m/a", "Dense", 64, 24, "E4M3", "1"),)))
    layer  type   bytes before  after  kernel  scale of inputs
    m/a    Dense  64            24     E4M3    1
    1 of 1 layers with weights frozen: 64 bytes before, 24 after
    """

    rows: tuple[FrozenRow, ...]

    def __post_init__(self) -> None:
        checks.sequence("rows", self.rows, FrozenRow, "a tuple of rows")

    @property
    def before(self) -> int:
        """Bytes of all weights before."""
        return sum(row.before for row in self.rows)

    @property
    def after(self) -> int:
        """Bytes of all weights now."""
        return sum(row.after for row in self.rows)

    def __str__(self) -> str:
        cells = [tuple(map(str, dataclasses.astuple(row))) for row in self.rows]
        frozen = sum(bool(row.inputs) for row in self.rows)
        last = (
            f"{frozen} of {len(self.rows)} layers with weights frozen: "
            f"{self.before:,} bytes before, {self.after:,} after"
        )
        return "\n".join([*tables.lines([TITLES, *cells]), last])

    __repr__ = __str__
