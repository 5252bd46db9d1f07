"""The tables of guides and reference, computed and written as Markdown.

    python docs/tables.py

writes those of a guide into it, between `<!-- table: NAME -->` and
`<!-- end -->`, so that a code host shows them; a test holds them against what
is computed today.  Those of the reference are made with the site.
"""

from __future__ import annotations

import pathlib
import re

import gallery
import measure
import numpy as np

from tfmp import conversion, formats, ops, recipes

PAGES = [
    pathlib.Path(__file__).parent / f"{name}.md"
    for name in ("guides/formats", "reference/gallery")
]
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)\n.*?(<!-- end -->)", re.DOTALL)
LOW, HIGH = -30.0, 20.0  # exponents of the log-uniform values


def write(folder: pathlib.Path) -> None:
    """Writes the tables of the reference to `folder/<name>.md`."""
    for name, rows in {"presets": presets(), "defaults": defaults()}.items():
        (folder / f"{name}.md").write_text(markdown(rows), encoding="utf-8")


def filled(page: str) -> str:
    """Returns a guide with its tables as they are computed today."""
    made = {
        "layout": layout,
        "precision": precision,
        "range": value_range,
        "limits": limits,
        "accuracy": gallery.accuracy,
        "cost": gallery.cost,
    }
    return TABLE.sub(
        lambda m: f"{m[1]}\n{markdown(made[m[2]]())}\n{m[3]}", page
    )


def markdown(rows: list[list[str]]) -> str:
    """Returns rows, the first of them the head, as a Markdown table.

    >>> print(markdown([["a", "b"], ["1", "2"]]), end="")
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"


def layout() -> list[list[str]]:
    """Fields, range and steps: what follows from the definition."""
    head = ["format", "bits", "sign-exponent-mantissa", "largest"]
    head += ["smallest normal", "smallest", "step above 1", "infinity"]
    rows = []
    for name, f in measure.FORMATS.items():
        fields = f"1-{f.exponent_bits}-{f.mantissa_bits}"
        largest = f"{f.max:g}" if f.max < 1e6 else f"{f.max:.3g}"
        rows.append(
            [f"**{name}**", str(f.bits), fields, largest]
            + [power(v) for v in (f.min_normal, f.min_subnormal, f.epsilon)]
            + ["yes" if f.has_infinity else "no"]
        )
    return [head, *rows]


def precision() -> list[list[str]]:
    """Error on normal values: as they are, and scaled to the top."""
    head = ["format", "SQNR, dB", "SQNR scaled, dB"]
    head += ["largest relative error", "bound"]
    x, rows = measure.normal(), []
    for name, f in measure.FORMATS.items():
        plain = ops.sqnr(x, measure.round_to(x, f))
        scaled = "—"
        if f in formats.FLOAT8:
            y = measure.round_to(x, f, measure.top_scale(x, f))
            scaled = f"{ops.sqnr(x, y):.1f}"
        inside = x[np.abs(x) >= f.min_normal]
        errors = (
            measure.relative_error(inside, f).max(),
            1 / (1 + 2 / f.epsilon),
        )
        rows.append(
            [f"**{name}**", f"{plain:.1f}", scaled, *map(percent, errors)]
        )
    # In float32 itself nothing is lost: the values are made in it.
    rows[0][1:4] = ["—"] * 3
    return [head, *rows]


def value_range() -> list[list[str]]:
    """What becomes of values that are spread evenly over 50 binades."""
    head = ["format", "full precision", "fewer bits (subnormal)"]
    head += ["flushed to zero", "beyond the largest"]
    x, rows = measure.log_uniform(LOW, HIGH), []
    for name, f in measure.FORMATS.items():
        y = measure.round_to(x, f)
        beyond = x > f.max
        zero = y == 0
        subnormal = (x < f.min_normal) & ~zero
        full = ~(beyond | zero | subnormal)
        shares = [percent(s.mean()) for s in (full, subnormal, zero, beyond)]
        rows.append([f"**{name}**", *shares])
    return [head, *rows]


def limits() -> list[list[str]]:
    """Where values become zero, and where and how they overflow."""
    head = ["format", "zero up to", "overflows", "`tf.cast` then gives"]
    head += ["`tfmp.ops.quantize` then gives"]
    rows = []
    for name in ("float16", "E4M3", "E5M2"):
        f = measure.FORMATS[name]
        kept = measure.first(lambda x, f=f: measure.cast(x, f) != 0)
        zero = float(np.nextafter(np.float32(kept), np.float32(0)))
        beyond = measure.first(
            lambda x, f=f: not np.isfinite(measure.cast(x, f))
        )
        exact = float(f"{beyond:g}") == beyond
        cells = [power(zero), f"{'from' if exact else 'above'} {beyond:g}"]
        cells += [f"{measure.cast(beyond, f):g}"]
        saturates = f in formats.FLOAT8
        cells += [f"{measure.round_to(beyond, f):g}" if saturates else "—"]
        rows.append([f"**{name}**", *cells])
    return [head, *rows]


def presets() -> list[list[str]]:
    """The recipes that have a name."""
    rows = [[f"`{n}`", f"`{r!r}`"] for n, r in recipes.PRESETS.items()]
    return [["name", "recipe"], *rows]


def defaults() -> list[list[str]]:
    """What each kind of layer runs in after `tfmp.convert`."""
    rows = [
        [f"`{kind.__name__}`", default.precision, default.reason]
        for kind, default in conversion.DEFAULTS.items()
    ]
    return [["layer", "precision", "because"], *rows]


def power(value: float) -> str:
    """Returns a power of two as one.

    >>> power(0.125)
    '2<sup>-3</sup>'
    """
    return f"2<sup>{int(np.log2(value))}</sup>"


def percent(share: float) -> str:
    """Returns a share as a percentage of three digits.

    >>> percent(0.0625), percent(0.0), percent(2**-12)
    ('6.25 %', '0 %', '0.0244 %')
    """
    return f"{100 * float(share):.3g} %"


def fill() -> None:
    """Writes the tables of the guides into them."""
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    fill()
