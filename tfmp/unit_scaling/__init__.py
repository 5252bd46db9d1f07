"""Unit scaling: every tensor begins with a standard deviation of 1.

Weights begin with a standard deviation of 1, and fixed factors in each
operator keep that of results and gradients, so that FP8 needs no scale:

    policy = tfmp.Policy("mixed_float8", "static")
    y = tfmp.unit_scaling.Dense(units, dtype=policy)(x)

A learning rate that was found on a small model holds for a wide and deep one
with `Adam` or `AdamW` of this room, which give each variable a rate of its own.
Normalization has no parameters: `keras.layers.LayerNormalization(center=False,
scale=False)`.

Source: arXiv 2303.11257 (unit scaling), arXiv 2407.17465 (u-muP), arXiv
2502.05967 (FP8 with it).
"""

from tfmp.unit_scaling.activations import gelu, silu, silu_glu
from tfmp.unit_scaling.attention import MultiHeadAttention
from tfmp.unit_scaling.dense import Dense, Embedding
from tfmp.unit_scaling.gated import GatedMLP
from tfmp.unit_scaling.gradient_scaling import scale_backward, scale_forward
from tfmp.unit_scaling.losses import SparseCategoricalCrossentropy
from tfmp.unit_scaling.optimizers import Adam, AdamW, RateByLayer
from tfmp.unit_scaling.residual import (
    Residual,
    residual_add,
    residual_split,
    residual_tau,
)

__all__ = [
    "Adam",
    "AdamW",
    "Dense",
    "Embedding",
    "GatedMLP",
    "MultiHeadAttention",
    "RateByLayer",
    "Residual",
    "SparseCategoricalCrossentropy",
    "gelu",
    "residual_add",
    "residual_split",
    "residual_tau",
    "scale_backward",
    "scale_forward",
    "silu",
    "silu_glu",
]
