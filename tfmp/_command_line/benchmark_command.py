"""`tfmp benchmark`: a model in several precisions, beside each other."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from tfmp._command_line import model_files
from tfmp._command_line.outcome import Command, Outcome


def _arguments(parser: argparse.ArgumentParser) -> None:
    model_files.add_model(parser)
    parser.add_argument(
        "--data",
        metavar="FILE.npz",
        help="arrays `x` and `y` of NumPy's `savez`, for metrics and times; "
        "without, random numbers",
    )
    parser.add_argument(
        "--policies",
        metavar="NAME,...",
        help="of copies beside one in float32; without, the model as it is",
    )
    parser.add_argument(
        "--batch-sizes",
        type=_sizes,
        default=[1, 32],
        metavar="N,...",
        help="to time (1,32)",
    )
    parser.add_argument(
        "--runs",
        type=model_files.positive,
        default=30,
        metavar="N",
        help="how often each is timed (30)",
    )
    parser.add_argument(
        "--picture", metavar="FILE.png", help="draw times and sizes"
    )


def _sizes(text: str) -> list[int]:
    return [model_files.positive(part) for part in text.split(",")]


def _run(options: argparse.Namespace) -> Outcome:
    data = _data(options.data)
    model = model_files.load(options.model, options.modules)
    from tfmp import _comparing

    policies = options.policies
    found = _comparing.compare(
        model,
        data,
        policies=None if policies is None else policies.split(","),
        batch_sizes=options.batch_sizes,
        runs=options.runs,
    )
    if options.picture:
        found.plot(options.picture)
    return Outcome(str(found), found.to_dict())


def _data(path: str | None) -> Any:
    """Returns `(x, y)`, or `x` alone, of a file.

    Raises:
        ValueError: if the file is not there, or holds no array `x`.
    """
    if path is None:
        return None
    import numpy as np

    if not pathlib.Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:
        raise ValueError(f"{path} is no file of NumPy: {error}") from error
    if "x" not in arrays:
        known = ", ".join(arrays) or "none"
        raise ValueError(f"{path} must hold an array `x`; it has {known}")
    return (arrays["x"], arrays["y"]) if "y" in arrays else arrays["x"]


COMMAND = Command(
    "benchmark",
    "compare a model with itself in float32 and other precisions",
    _arguments,
    _run,
    (
        "tfmp benchmark fp8.keras --data test.npz",
        "tfmp benchmark model.keras --policies mixed_bfloat16,mixed_float8",
    ),
)
