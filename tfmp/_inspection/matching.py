"""What became of each product that XLA was given, in what it compiled."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence

from tfmp._inspection import merging
from tfmp._inspection.hlo import Product, Program


@dataclasses.dataclass(frozen=True)
class Fate:
    """A product that XLA was given, and what it compiled of it.

    Attributes:
        given: by TensorFlow; or, if XLA has made it, one that was compiled.
        compiled: for each mode, the products that XLA has made of it.
        is_given: whether TensorFlow has given it.
    """

    given: Product
    compiled: dict[str, list[Product]]
    is_given: bool = True

    @property
    def kernels(self) -> dict[str, str]:
        """For each mode whose kernel computes it, "" if none does."""
        return {
            mode: " + ".join(sorted({product.kernel for product in products}))
            for mode, products in self.compiled.items()
        }

    @property
    def outcomes(self) -> list[Product]:
        """What was compiled, in all modes; what was given, if nothing was."""
        every = [p for products in self.compiled.values() for p in products]
        return every or [self.given]

    @property
    def float8_modes(self) -> list[str]:
        """The modes in which both factors are FP8."""
        return [
            mode
            for mode, products in self.compiled.items()
            if products and all(product.is_float8 for product in products)
        ]

    @property
    def is_float8(self) -> bool:
        """Whether both factors are FP8, in all modes."""
        if not self.compiled:
            return self.given.is_float8
        return len(self.float8_modes) == len(self.compiled)


def fates(
    given: Sequence[Product], compiled: Mapping[str, Program]
) -> list[Fate]:
    """Returns what became of each product, found again by name.

    What was compiled and stems from no product that was given comes last.

    Args:
        given: those that TensorFlow handed over.
        compiled: the programs, by mode.
    """
    names = {product.name for product in given}
    by_mode: dict[str, dict[str, list[Product]]] = {}
    made: dict[str, Product] = {}
    for mode, program in compiled.items():
        found = by_mode[mode] = collections.defaultdict(list)
        for product in program.products():
            found[_origin(product.name, names)].append(product)
        _add_merged(found, program, names)
        _add_last(found, given)
        made |= {product.name: product for product in found[""]}
    whole = [
        Fate(each, {mode: found[each.name] for mode, found in by_mode.items()})
        for each in given
    ]
    return whole + [
        Fate(
            each,
            {
                mode: [other for other in found[""] if other.name == name]
                for mode, found in by_mode.items()
            },
            is_given=False,
        )
        for name, each in made.items()
    ]


def _origin(name: str, names: Collection[str]) -> str:
    """Returns which of the names something stems from, "" if none.

    XLA writes the names of inner operations behind those around them.
    """
    while name and name not in names:
        name = name.rpartition("/")[0]
    return name


def _add_merged(
    found: dict[str, list[Product]], program: Program, names: Collection[str]
) -> None:
    """Adds products that are part of a larger one, in which they are."""
    for name, sources in merging.sources(program).items():
        part = _origin(name, names)
        wholes = [found[_origin(source, names)] for source in sources]
        if part and not found[part] and len(wholes) == 1:
            found[part] = wholes[0]


def _add_last(
    found: dict[str, list[Product]], given: Sequence[Product]
) -> None:
    """Adds the only product that is missing, if the only new one is as large.

    XLA names some products after what it has fused into them.
    """
    new = found[""]
    missing = [product for product in given if not found[product.name]]
    if len(new) == len(missing) == 1 and new[0].flops == missing[0].flops:
        found[missing[0].name] = [new.pop()]


def count(every: Sequence[Fate], mode: str) -> int:
    """Returns how many products are in FP8 in one mode."""
    return sum(mode in fate.float8_modes for fate in every)
