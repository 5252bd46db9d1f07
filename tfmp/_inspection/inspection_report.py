"""The result of an inspection: a table of products, and the FP8 share."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfmp._support import checks, tables

TITLES = ("layer", "product", "operands", "m x k x n", "GFLOP", "kernel", "why")


@dataclasses.dataclass(frozen=True)
class InspectedProduct:
    """One matrix product or convolution of a program.

    Attributes:
        layer: path of the layer that it belongs to; of a function, the name
            scope; "?" if that is not known.
        product: `"output"`, `"input_grad"` (the gradient of the first factor)
            or `"kernel_grad"` (of the second); `"lora"` of the factors of
            LoRA, forwards or backwards; "" if that is not known.
        operands: element types of both factors, as XLA writes them.
        result: element type of the result.
        size: of the product, `m x k x n`, with a batch `4 of m x k x n`.
        flops: two for each multiply-add; what is in a loop counts once.
        kernels: whose kernel computes it, by mode of the compiler: `"triton"`,
            `"cublaslt"`, `"cublas"`, `"cudnn"`, `"xla"`, or "" if no product
            is left of it.  Empty if nothing was compiled.
        float8: whether both factors are FP8, in every mode.
        fallback: whether FP8 was asked for, and is not there.
        reason: why it is not in FP8, as far as that is known.
        name: what TensorFlow calls the operation.

    >>> types, size = ("bf16", "bf16"), "2 x 4 x 8"
    >>> InspectedProduct("a", "output", types, "bf16", size, 128).float8
    False
    """

    layer: str
    product: str
    operands: tuple[str, str]
    result: str
    size: str
    flops: int
    kernels: dict[str, str] = dataclasses.field(default_factory=dict)
    float8: bool = False
    fallback: bool = False
    reason: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        strings = ("layer", "product", "result", "size", "reason", "name")
        checks.fields(self, **dict.fromkeys(strings, str))
        checks.fields(self, operands=tuple, kernels=dict)
        checks.fields(self, float8=bool, fallback=bool)
        checks.integer("flops", self.flops, 0)

    @property
    def cells(self) -> tuple[str, ...]:
        """Its line in the table."""
        kernels = list(
            dict.fromkeys(k or "none" for k in self.kernels.values())
        )
        fallback = "FALL-BACK: " if self.fallback else ""
        return (
            self.layer,
            self.product or "?",
            f"{' x '.join(self.operands)} -> {self.result}",
            self.size,
            f"{self.flops / 1e9:.3g}",
            " / ".join(kernels) or "-",
            fallback + self.reason,
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Inspection:
    """What a program multiplies in FP8, product by product; prints a table.

        float8_share = sum(flops of products in FP8) / sum(flops of all)

    Attributes:
        subject: what was inspected.
        program: which program of it the products are from, in words.
        products: one row each, in the order of the program.
        kernels: how many kernels the program launches, by mode of the
            compiler; empty if nothing was compiled.
        float8_by_mode: how many products are in FP8, likewise.
        temporary_bytes: what it needs of GPU memory beside arguments and
            results, by mode; empty if that is not known.
        notes: what else to know.

    >>> print(Inspection("f", "as given to XLA", ()))
    f: as given to XLA
    no products
    """

    subject: str
    program: str
    products: tuple[InspectedProduct, ...]
    kernels: dict[str, int] = dataclasses.field(default_factory=dict)
    float8_by_mode: dict[str, int] = dataclasses.field(default_factory=dict)
    temporary_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.fields(self, subject=str, program=str)
        modes = ("kernels", "float8_by_mode", "temporary_bytes")
        checks.fields(self, **dict.fromkeys(modes, dict))
        rows = "a tuple of InspectedProduct"
        checks.sequence("products", self.products, InspectedProduct, rows)
        checks.sequence("notes", self.notes, str, "a tuple of strings")

    @property
    def float8_share(self) -> float:
        """The share of the FLOPs in FP8, from 0 to 1."""
        low = sum(row.flops for row in self.products if row.float8)
        return low / max(1, sum(row.flops for row in self.products))

    @property
    def float8_products(self) -> int:
        """How many products are in FP8."""
        return sum(row.float8 for row in self.products)

    @property
    def fallbacks(self) -> tuple[InspectedProduct, ...]:
        """The products that were to be in FP8, and are not."""
        return tuple(row for row in self.products if row.fallback)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serialisable values."""
        return {
            "subject": self.subject,
            "program": self.program,
            "float8_share": self.float8_share,
            "float8_products": self.float8_products,
            "fallbacks": len(self.fallbacks),
            "kernels": dict(self.kernels),
            "float8_by_mode": dict(self.float8_by_mode),
            "temporary_bytes": dict(self.temporary_bytes),
            "notes": list(self.notes),
            "products": [
                {**dataclasses.asdict(row), "operands": list(row.operands)}
                for row in self.products
            ],
        }

    def __str__(self) -> str:
        lines = [f"{self.subject}: {self.program}"]
        if not self.products:
            return "\n".join([*lines, "no products", *self._notes()])
        lines += tables.lines([TITLES, *(row.cells for row in self.products)])
        lines.append(
            f"FP8: {self.float8_products} of {len(self.products)} products, "
            f"{self.float8_share:.1%} of the FLOPs"
        )
        if self.fallbacks:
            lines.append(f"fall-backs: {len(self.fallbacks)}")
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        lines = []
        for mode, count in self.kernels.items():
            said = f"{mode}: {count} kernels"
            if mode in self.float8_by_mode:
                said += f", {self.float8_by_mode[mode]} products in FP8"
            if mode in self.temporary_bytes:
                size = self.temporary_bytes[mode] / 2**20
                said += f", {size:.1f} MiB of temporary memory"
            lines.append(said)
        return [*lines, *(f"note: {note}" for note in self.notes)]

    __repr__ = __str__
