"""What precision each kind of layer runs in, and why.

The counterpart of the allow and deny lists of `torch.amp` and of TensorFlow's
`auto_mixed_precision` pass:

    "float8"    products of two matrices: FP8 operands, by the policy's recipe
    "compute"   the policy's compute dtype, bfloat16
    "float32"   everything, as 16 bits would lose what matters

Losses and metrics are not layers: Keras computes them in float32.
"""

from __future__ import annotations

import dataclasses

import keras
from keras import layers

PRECISIONS = ("float8", "compute", "float32")


@dataclasses.dataclass(frozen=True)
class Default:
    """A precision out of `PRECISIONS`, and the reason for it."""

    precision: str
    reason: str


PRODUCT = Default("float8", "a product of two matrices")
PROJECTIONS = Default(
    "compute",
    "scores and values, in FP8 by a recipe with attention=True; its "
    "projections are layers of their own",
)
DEPTHWISE = Default(
    "compute",
    "one multiplication a weight and pixel: limited by memory, and GPUs have "
    "no FP8 kernel for one channel a group",
)
SEPARABLE = Default(
    "compute",
    "its depthwise half has no FP8 kernel, its pointwise half is limited by "
    "memory",
)
TRANSPOSED = Default(
    "compute",
    "its output is the input-gradient of a convolution, which GPUs have in "
    "FP8 only as a forward one, over mostly zeros",
)
RECURRENT = Default(
    "compute",
    "a small product a time step that waits for the one before; cuDNN's "
    "fused kernel has no FP8",
)
LOOKUP = Default("compute", "a lookup, not a product")
LOOKUP_AND_LOGITS = Default(
    "compute", "a lookup; tfmp has no FP8 layer for its logits"
)
STATISTICS = Default("compute", "statistics in float32, result in 16 bits")
SOFTMAX = Default("float32", "a sum of exponentials")
ELEMENTWISE = Default("compute", "no product")
OWN_CODE = Default("compute", "code of its own: tfmp does not look inside")

DEFAULTS: dict[type, Default] = {
    layers.Dense: PRODUCT,
    layers.EinsumDense: PRODUCT,
    layers.Conv1D: PRODUCT,
    layers.Conv2D: PRODUCT,
    layers.Conv3D: PRODUCT,
    layers.MultiHeadAttention: PROJECTIONS,
    layers.GroupQueryAttention: PROJECTIONS,
    layers.DepthwiseConv1D: DEPTHWISE,
    layers.DepthwiseConv2D: DEPTHWISE,
    layers.SeparableConv1D: SEPARABLE,
    layers.SeparableConv2D: SEPARABLE,
    layers.Conv1DTranspose: TRANSPOSED,
    layers.Conv2DTranspose: TRANSPOSED,
    layers.Conv3DTranspose: TRANSPOSED,
    layers.LSTM: RECURRENT,
    layers.GRU: RECURRENT,
    layers.SimpleRNN: RECURRENT,
    layers.LSTMCell: RECURRENT,
    layers.GRUCell: RECURRENT,
    layers.SimpleRNNCell: RECURRENT,
    layers.ConvLSTM1D: RECURRENT,
    layers.ConvLSTM2D: RECURRENT,
    layers.ConvLSTM3D: RECURRENT,
    layers.Embedding: LOOKUP,
    layers.ReversibleEmbedding: LOOKUP_AND_LOGITS,
    layers.BatchNormalization: STATISTICS,
    layers.LayerNormalization: STATISTICS,
    layers.RMSNormalization: STATISTICS,
    layers.GroupNormalization: STATISTICS,
    layers.UnitNormalization: STATISTICS,
    layers.SpectralNormalization: STATISTICS,
    layers.Softmax: SOFTMAX,
}
FLOAT32_ACTIVATIONS = ("softmax", "log_softmax", "exponential")


def default_of(layer: keras.Layer) -> Default:
    """Returns the default of a layer: of its class, or the nearest base.

    >>> default_of(layers.Softmax()).precision
    'float32'
    >>> default_of(layers.Conv2D(8, 3)).precision
    'float8'
    """
    for base in type(layer).__mro__:
        if base in DEFAULTS:
            return DEFAULTS[base]
    activation = getattr(layer, "activation", None)
    if isinstance(layer, layers.Activation):
        name = getattr(activation, "__name__", "")
        return SOFTMAX if name in FLOAT32_ACTIVATIONS else ELEMENTWISE
    return OWN_CODE if layer.weights else ELEMENTWISE
