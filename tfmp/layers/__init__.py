"""Keras layers whose products run on FP8 operands."""

from tfmp.layers.attention import GroupedQueryAttention, MultiHeadAttention
from tfmp.layers.convolution import Conv1D, Conv2D, Conv3D
from tfmp.layers.dense import Dense, EinsumDense
from tfmp.layers.normalization import BatchNormalization

GroupQueryAttention = GroupedQueryAttention  # as `keras.layers` has it

__all__ = [
    "BatchNormalization",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Dense",
    "EinsumDense",
    "GroupQueryAttention",
    "GroupedQueryAttention",
    "MultiHeadAttention",
]
