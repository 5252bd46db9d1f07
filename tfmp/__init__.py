"""Mixed-precision and FP8 training for Keras on TensorFlow."""

from tfmp import formats, layers, ops, optimizers, recipes
from tfmp.policies import (
    Policy,
    global_policy,
    policy_scope,
    set_global_policy,
)

__version__ = "0.1.0"

__all__ = [
    "Policy",
    "formats",
    "global_policy",
    "layers",
    "ops",
    "optimizers",
    "policy_scope",
    "recipes",
    "set_global_policy",
]
