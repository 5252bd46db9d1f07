"""The report of an export: what each layer became, and how far it is off."""

from __future__ import annotations

import dataclasses

from tfmp._support import checks, tables

TITLES = ("layer", "type", "precision", "exported as")


@dataclasses.dataclass(frozen=True)
class ExportedLayer:
    """One layer that has weights, or products of its own.

    Attributes:
        path: of the layer.
        type: name of its Keras class.
        precision: `"float8"` if its product is, else the dtype it computes in.
        exported: what it does in the file, in words.

    >>> ExportedLayer("model/dense", "Dense", "float8", "FP8 product").path
    'model/dense'
    """

    path: str
    type: str
    precision: str
    exported: str

    def __post_init__(self) -> None:
        checks.fields(self, path=str, type=str, precision=str, exported=str)


@dataclasses.dataclass(frozen=True, repr=False)
class ExportReport:
    """What `tfmp.export` did; printing it gives a table.

    Attributes:
        path: of the file, or folder.
        format: `"saved_model"`, `"litert"`, `"onnx"` or `"safetensors"`.
        kernels: `"float8"`, `"float8_dynamic"`, `"quantized"`, `"float"`,
            `"int8"` or `"int8_calibrated"`.
        layers: one row each.
        runtime: that the file was run in; None if it was not.
        sqnr: of the file's outputs against the model's, in dB; of several
            outputs the worst.  None if not checked.
        max_abs_error: the largest difference from the model's outputs.
        conversion_sqnr: against the layers that were exported, run by Keras,
            in dB: what writing and running the file alone costs.
        min_sqnr: what `sqnr` had to reach.
        notes: what else to know.
        size: of the file, or of all files in the folder, in bytes.

    >>> print(ExportReport("m.onnx", "onnx", "float", (), notes=("not run",)))
    m.onnx: onnx, kernels='float'
    note: not run
    """

    path: str
    format: str
    kernels: str
    layers: tuple[ExportedLayer, ...]
    runtime: str | None = None
    sqnr: float | None = None
    max_abs_error: float | None = None
    conversion_sqnr: float | None = None
    min_sqnr: float | None = None
    notes: tuple[str, ...] = ()
    size: int | None = None

    def __post_init__(self) -> None:
        checks.fields(self, path=str, format=str, kernels=str, layers=tuple)
        checks.fields(self, runtime=str | None, notes=tuple, size=int | None)
        numbers = ("sqnr", "max_abs_error", "conversion_sqnr", "min_sqnr")
        checks.fields(self, **dict.fromkeys(numbers, float | None))

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.format}, kernels={self.kernels!r}"]
        if self.size is not None:
            lines[0] += f", {self.size:,} bytes"
        if self.layers:
            rows = [dataclasses.astuple(layer) for layer in self.layers]
            lines += tables.lines([TITLES, *rows])
        if self.sqnr is not None:
            lines += [
                f"checked in {self.runtime}: {self.sqnr:.1f} dB from the "
                f"model ({self.min_sqnr:.1f} or more was asked for), max abs "
                f"error {self.max_abs_error:.3g}",
            ]
        if self.conversion_sqnr is not None and self.kernels != "float8":
            lines += [
                f"{self.conversion_sqnr:.1f} dB from the same layers in "
                "float32, run by Keras"
            ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__
