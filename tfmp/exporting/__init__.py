"""Trained models for other runtimes: SavedModel, LiteRT and ONNX."""

from tfmp.exporting.exporter import export
from tfmp.exporting.report import ExportedLayer, ExportReport

__all__ = ["ExportReport", "ExportedLayer", "export"]
