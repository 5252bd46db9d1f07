"""Mixed-precision and FP8 training for Keras on TensorFlow."""

from tfmp import (
    analysis,
    callbacks,
    checkpoints,
    conversion,
    cost_model,
    debug,
    formats,
    layers,
    ops,
    optimizers,
    recipes,
    reporting,
    unit_scaling,
)
from tfmp._comparing import ComparedModel, Comparison, compare
from tfmp._configuration import (
    Configuration,
    configure,
    policy_scope,
    set_global_policy,
)
from tfmp._exporting import ExportedLayer, ExportReport, export
from tfmp._freezing import FreezeReport, FrozenRow, freeze, thaw
from tfmp._inspection import InspectedProduct, Inspection, assert_fp8, inspect
from tfmp._inspection.summaries import summary
from tfmp.conversion import ConversionReport, convert, revert, set_precision
from tfmp.policies import Policy, PrecisionMap, global_policy
from tfmp.version import VERSION

__version__ = VERSION

__all__ = [
    "ComparedModel",
    "Comparison",
    "Configuration",
    "ConversionReport",
    "ExportReport",
    "ExportedLayer",
    "FreezeReport",
    "FrozenRow",
    "InspectedProduct",
    "Inspection",
    "Policy",
    "PrecisionMap",
    "analysis",
    "assert_fp8",
    "callbacks",
    "checkpoints",
    "compare",
    "configure",
    "conversion",
    "convert",
    "cost_model",
    "debug",
    "export",
    "formats",
    "freeze",
    "global_policy",
    "inspect",
    "layers",
    "ops",
    "optimizers",
    "policy_scope",
    "recipes",
    "reporting",
    "revert",
    "set_global_policy",
    "set_precision",
    "summary",
    "thaw",
    "unit_scaling",
]


def __dir__() -> list[str]:
    """What users use."""
    return [*__all__, "__version__"]
