"""Trained models for other runtimes: SavedModel, LiteRT and ONNX."""

from tfmp._exporting.export_report import ExportedLayer, ExportReport
from tfmp._exporting.exporter import export

__all__ = ["ExportReport", "ExportedLayer", "export"]
