"""Reports of trainings, from what `ScaleMonitor` logged."""

from tfmp.reporting.writing import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
