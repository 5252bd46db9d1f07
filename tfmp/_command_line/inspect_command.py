"""`tfmp inspect`: what really runs in FP8."""

from __future__ import annotations

import argparse

from tfmp._command_line import model_files
from tfmp._command_line.outcome import Command, Outcome

# Those of `tfmp.inspect`, whose room imports TensorFlow.
TARGETS = ("h200", "h100", "b200", "l40s", "l4", "rtx4090")


def _arguments(parser: argparse.ArgumentParser) -> None:
    model_files.add_arguments(parser)
    parser.add_argument(
        "--target",
        choices=TARGETS,
        metavar="NAME",
        help=f"compile for a GPU that need not be here: {', '.join(TARGETS)}",
    )
    parser.add_argument(
        "--require-fp8",
        type=_share,
        metavar="SHARE",
        help="exit with 1 if less than this share of the FLOPs, 0 to 1, is "
        "in FP8; the share is the one shown: of the products of the program, "
        "which has no gradient of the model's inputs",
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"not a share from 0 to 1: {text!r}")
    return value


def _run(options: argparse.Namespace) -> Outcome:
    model = model_files.load(options.model, options.modules)
    from tfmp import _inspection

    found = _inspection.inspect(
        model,
        target=options.target,
        batch_size=options.batch_size,
        length=options.length,
    )
    required, problem = options.require_fp8, ""
    if required is not None and found.float8_share < required:
        problem = (
            f"{found.float8_share:.1%} of the FLOPs are in FP8; "
            f"--require-fp8 asks for {required:.1%}"
        )
    return Outcome(str(found), found.to_dict(), problem)


COMMAND = Command(
    "inspect",
    "show which products of a model's training step are in FP8",
    _arguments,
    _run,
    (
        "tfmp inspect model.keras",
        "tfmp inspect model.keras --target h200 --require-fp8 0.9",
    ),
)
