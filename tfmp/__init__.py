"""Mixed-precision and FP8 training for Keras on TensorFlow."""

from tfmp import (
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
)
from tfmp.configuration import Configuration, configure
from tfmp.conversion import Report, convert, revert, set_precision
from tfmp.exporting import ExportedLayer, ExportReport, export
from tfmp.policies import Policy, global_policy
from tfmp.precision_map import PrecisionMap
from tfmp.scopes import policy_scope, set_global_policy

__version__ = "0.1.0"

__all__ = [
    "Configuration",
    "ExportReport",
    "ExportedLayer",
    "Policy",
    "PrecisionMap",
    "Report",
    "callbacks",
    "checkpoints",
    "configure",
    "conversion",
    "convert",
    "cost_model",
    "debug",
    "export",
    "formats",
    "global_policy",
    "layers",
    "ops",
    "optimizers",
    "policy_scope",
    "recipes",
    "revert",
    "set_global_policy",
    "set_precision",
]
