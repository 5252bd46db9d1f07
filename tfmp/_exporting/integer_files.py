"""Files with weights of 8-bit integers, by LiteRT's and ONNX Runtime's tools.

Weights have a scale for each output channel.  Activations stay in float32, or
get a scale from values that calibrate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._exporting.export_report import ExportedLayer
from tfmp._exporting.job import Job, distance
from tfmp._exporting.plain_model import (
    LEAST_DECIBELS,
    describe,
    expected_sqnr,
)
from tfmp._keras import layer_parts
from tfmp.conversion.records import flatten

CALIBRATED = "int8_calibrated"
# Of a layer's operand: 30 dB, where normal numbers have 40.
NOISE = 1e-3


@dataclasses.dataclass(frozen=True)
class IntegerJob(Job):
    """An export with weights of 8-bit integers."""

    @staticmethod
    def expected_sqnr(model: keras.Model) -> float:
        """The same, with what integers lose of each layer with weights."""
        layers = flatten(model).values()
        count = sum(bool(layer_parts.own_weights(layer)) for layer in layers)
        noise = 10 ** (-expected_sqnr(model) / 10) + 2 * count * NOISE
        return max(LEAST_DECIBELS, -10 * math.log10(noise))

    def write(self, path: str) -> None:
        """Has the format's own tool write the file."""
        values = self.values if self.kernels == CALIBRATED else None
        write = WRITERS[self.format.runtime[0]]
        write(self.model, path, self.signature, values)

    def compare(
        self, expected: Any, same: Any, found: list[Any], min_sqnr: float
    ) -> dict[str, Any]:
        """Returns how far the file's outputs are off.

        From the layers in float32 they may be as far as they are.
        """
        conversion, _ = distance(same, found)
        compared = super().compare(expected, None, found, min_sqnr)
        return {**compared, "conversion_sqnr": conversion}

    def describe(self) -> tuple[ExportedLayer, ...]:
        """Returns a row for each layer with weights, as its tool is told."""
        said = "left to the format's tool: int8 weights"
        if self.kernels == CALIBRATED:
            said += " and activations"
        return tuple(
            dataclasses.replace(row, exported=said)
            for row in describe(self.model, "float")
        )


def samples(values: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yields the inputs of a model, a row at a time."""
    for row in range(min(map(len, values))):
        yield [value[row : row + 1] for value in values]


def write_litert(
    model: keras.Model, path: str, signature: Any, values: Any
) -> None:
    """Writes a LiteRT file.

    Args:
        model: that computes in float32.
        path: of the file.
        signature: of its arguments.
        values: to calibrate with, an array for each; None for weights alone.
    """
    more = {}
    if values is not None:
        more["representative_dataset"] = lambda: samples(values)
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(
            path,
            format="litert",
            verbose=False,
            input_signature=signature,
            optimizations=[tf.lite.Optimize.DEFAULT],
            **more,
        )


def _onnx_quantization() -> Any:
    """Returns ONNX Runtime's module, which puts a folder into `sys.path`."""
    before = list(sys.path)
    try:
        return importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise ImportError(
            "int8 in ONNX needs the package onnxruntime: "
            "pip install onnxruntime"
        ) from error
    finally:
        sys.path[:] = before


def write_onnx(
    model: keras.Model, path: str, signature: Any, values: Any
) -> None:
    """Writes an ONNX file; its arguments are those of `write_litert`."""
    quantization: Any = _onnx_quantization()
    wide = str(pathlib.Path(path).with_suffix(".float32.onnx"))
    model.export(wide, format="onnx", verbose=False, input_signature=signature)
    integer = quantization.QuantType.QInt8
    usual = {"weight_type": integer, "per_channel": True}
    try:
        if values is None:
            quantization.quantize_dynamic(wide, path, **usual)
            return
        names = [spec.name for spec in keras.tree.flatten(signature)]
        rows = [dict(zip(names, each, strict=True)) for each in samples(values)]

        class Reader(quantization.CalibrationDataReader):
            """Gives one row after the other, then None."""

            def __init__(self) -> None:
                self.rows = iter(rows)

            def get_next(self) -> Any:
                """Returns the next row."""
                return next(self.rows, None)

        usual["activation_type"] = integer
        quantization.quantize_static(wide, path, Reader(), **usual)
    finally:
        os.unlink(wide)


WRITERS = {"ai_edge_litert": write_litert, "onnxruntime": write_onnx}
