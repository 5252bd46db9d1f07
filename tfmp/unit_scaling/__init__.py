"""Unit scaling: every tensor begins with a standard deviation of 1.

Weights begin with a standard deviation of 1, and fixed factors in each layer
keep that of results and gradients, so FP8 needs no scale and no amax:

    policy = tfmp.Policy("mixed_float8", "static")
    y = tfmp.unit_scaling.Dense(units, dtype=policy)(x)

`Adam` and `AdamW` of this module give each variable the learning rate of its
layer, by u-muP's rules for models of any width and depth.

Source: arXiv 2303.11257 (unit scaling), arXiv 2407.17465 (u-muP), arXiv
2502.05967 (FP8 with it).
"""

from tfmp.unit_scaling.activations import gelu, relu, silu
from tfmp.unit_scaling.attention import MultiHeadAttention
from tfmp.unit_scaling.dense import Dense, EinsumDense, Embedding
from tfmp.unit_scaling.losses import (
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from tfmp.unit_scaling.optimizers import Adam, AdamW, RateByLayer
from tfmp.unit_scaling.residual import ResidualAdd, ResidualSplit, residual_tau
from tfmp.unit_scaling.scale import scale_backward, scale_forward

__all__ = [
    "Adam",
    "AdamW",
    "Dense",
    "EinsumDense",
    "Embedding",
    "MeanSquaredError",
    "MultiHeadAttention",
    "RateByLayer",
    "ResidualAdd",
    "ResidualSplit",
    "SparseCategoricalCrossentropy",
    "gelu",
    "relu",
    "residual_tau",
    "scale_backward",
    "scale_forward",
    "silu",
]
