"""Mixed-precision and FP8 training for Keras on TensorFlow."""

from tfmp import callbacks, formats, layers, ops, optimizers, recipes
from tfmp.configuration import Configuration, configure
from tfmp.policies import (
    Policy,
    global_policy,
    policy_scope,
    set_global_policy,
)

__version__ = "0.1.0"

__all__ = [
    "Configuration",
    "Policy",
    "callbacks",
    "configure",
    "formats",
    "global_policy",
    "layers",
    "ops",
    "optimizers",
    "policy_scope",
    "recipes",
    "set_global_policy",
]
