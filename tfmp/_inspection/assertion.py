"""`assert_fp8`: an inspection for people's own tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfmp._inspection.inspection_report import Inspection
from tfmp._inspection.inspector import inspect
from tfmp._support import checks
from tfmp.policies.precision_map import PrecisionMap

PATTERNS = "None, or a list of paths or patterns"


def assert_fp8(
    model_or_function: Any,
    *inputs: Any,
    min_share: float | None = None,
    layers: Sequence[str] | None = None,
    target: str | None = None,
    batch_size: int = 32,
    length: int = 512,
) -> Inspection:
    """Raises an AssertionError, with the table, if FP8 is not where it should.

    That is, if

    - a product that was to be in FP8 is not: a fall-back; or
    - no product is in FP8; or
    - the products in FP8 have less than `min_share` of the FLOPs; or
    - one of `layers` is not in the program, or has no product in FP8.

    For a test of one's own, which needs no GPU:

        def test_float8():
            tfmp.assert_fp8(make_model(), min_share=0.9, layers=["ffn_.*"])

    Args:
        model_or_function: see `tfmp.inspect`.
        *inputs: see `tfmp.inspect`.
        min_share: share of the FLOPs, from 0 to 1; None for any.
        layers: paths or patterns, read as in `tfmp.PrecisionMap`, that must
            have FP8 products.
        target: see `tfmp.inspect`.
        batch_size: see `tfmp.inspect`.
        length: see `tfmp.inspect`.

    Returns:
        The inspection.

    Raises:
        AssertionError: see above.
        TypeError, ValueError: if an argument is not allowed.
        ImportError, RuntimeError: see `tfmp.inspect`.

    >>> import keras, tfmp
    >>> layer = tfmp.layers.Dense(8, dtype="mixed_float8")
    >>> model = keras.Sequential([keras.Input([16]), layer])
    >>> assert_fp8(model, min_share=1, layers=["dense.*"]).float8_products
    2
    """
    if min_share is not None:
        checks.number("min_share", min_share, 0, 1)
    patterns = _patterns(layers)
    found = inspect(
        model_or_function,
        *inputs,
        target=target,
        batch_size=batch_size,
        length=length,
    )
    problems = _problems(found, min_share or 0.0, patterns)
    if problems:
        raise AssertionError("\n".join([*problems, str(found)]))
    return found


def _patterns(layers: Any) -> dict[str, PrecisionMap]:
    """Returns what tells, for each pattern, whether it holds for a path."""
    if layers is None:
        return {}
    given = checks.sequence("layers", layers, str, PATTERNS)
    try:
        return {p: PrecisionMap({p: "float32"}, "float32") for p in given}
    except ValueError as error:
        raise ValueError(
            f"`layers` must be {PATTERNS} ({error}). Received: {layers!r}"
        ) from error


def _problems(
    found: Inspection, min_share: float, patterns: dict[str, PrecisionMap]
) -> list[str]:
    problems = []
    if found.fallbacks:
        problems.append(
            f"{len(found.fallbacks)} products should be in FP8, and are not"
        )
    if not found.float8_products:
        problems.append("no product is in FP8")
    elif found.float8_share < min_share:
        problems.append(
            f"{found.float8_share:.1%} of the FLOPs are in FP8, less than "
            f"{min_share:.1%}"
        )
    for pattern, holds in patterns.items():
        rows = [row for row in found.products if holds.match(row.layer)]
        if not rows:
            problems.append(f"no layer with products matches {pattern!r}")
        elif not any(row.float8 for row in rows):
            problems.append(f"no product of {pattern!r} is in FP8")
    return problems
