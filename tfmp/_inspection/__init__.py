"""What really runs in FP8, read from the program that XLA has."""

from tfmp._inspection.assertion import assert_fp8
from tfmp._inspection.inspection_report import InspectedProduct, Inspection
from tfmp._inspection.inspector import inspect

__all__ = ["InspectedProduct", "Inspection", "assert_fp8", "inspect"]
