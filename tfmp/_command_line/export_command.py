"""`tfmp export`: a model's file for inference elsewhere."""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
from typing import Any

from tfmp._command_line import model_files, overwriting
from tfmp._command_line.outcome import Command, Outcome

FORMATS = ("saved_model", "litert", "onnx", "safetensors")
KERNELS = ("float8", "float8_dynamic", "quantized", "float", "int8")


def _arguments(parser: argparse.ArgumentParser) -> None:
    model_files.add_arguments(parser)
    parser.add_argument("out", metavar="OUT", help="file or folder to write")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="what it is to run in (saved_model)",
    )
    parser.add_argument(
        "--kernels",
        choices=KERNELS,
        help="FP8 products as they are, kernels rounded to FP8, or kernels "
        "as they are (float8 in a SavedModel and in safetensors, else "
        "quantized)",
    )
    parser.add_argument(
        "--min-sqnr",
        type=float,
        metavar="DB",
        help="what the file's outputs must reach, of the model's",
    )
    overwriting.add_argument(parser, "OUT")


def _run(options: argparse.Namespace) -> Outcome:
    out = pathlib.Path(options.out)
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}")
    overwriting.check(out, options.force)
    model = model_files.load(options.model, options.modules)
    from tfmp import _exporting

    report = _exporting.export(
        model,
        out,
        options.format,
        kernels=options.kernels,
        min_sqnr=options.min_sqnr,
    )
    return Outcome(f"{report}\nwrote {out}", _data(report))


def _data(report: Any) -> dict[str, Any]:
    """Returns a report as JSON has it: null for the infinite dB of no error."""
    return {
        name: None if value in (math.inf, -math.inf) else value
        for name, value in dataclasses.asdict(report).items()
    }


COMMAND = Command(
    "export",
    "write a model for TensorFlow Serving, LiteRT or ONNX, and run the file",
    _arguments,
    _run,
    (
        "tfmp export fp8.keras served",
        "tfmp export fp8.keras model.tflite --format litert",
        "tfmp export fp8.keras model.onnx --format onnx --kernels float",
    ),
)
