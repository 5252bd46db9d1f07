"""What really runs in FP8, read from the program that XLA has."""

from tfmp.inspection.asserting import assert_fp8
from tfmp.inspection.inspecting import inspect
from tfmp.inspection.report import InspectedProduct, Inspection

__all__ = ["InspectedProduct", "Inspection", "assert_fp8", "inspect"]
