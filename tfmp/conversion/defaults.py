"""What precision each kind of layer runs in, and why.

The counterpart of the allow and deny lists of `torch.amp` and of TensorFlow's
`auto_mixed_precision` pass:

    "float8"    products of two matrices: FP8 operands, by the policy's recipe
    "compute"   the policy's compute dtype, bfloat16
    "float32"   everything, as 16 bits would lose what matters, or cannot run

A layer of the last kind that the code of another layer calls returns what that
one computes in.  All of this holds under a global policy of 16 bits too, for
layers that are made without a `dtype`.

Losses and metrics are not layers.  A loss that `compile` is given, as a class,
a name or a function, gets labels and predictions in float32 from Keras.  A
metric does not: Keras sums in float32 what a metric computes from predictions
as they are, and most metrics, as classes too, cast the labels to the dtype of
the predictions.  So here the metrics of `compile` get predictions in float32,
if a layer has a policy of tfmp: see `tfmp.conversion.float32_predictions`.
"""

from __future__ import annotations

import dataclasses

import keras
from keras import layers

from tfmp._keras import layer_kinds

PRECISIONS = ("float8", "compute", "float32")


@dataclasses.dataclass(frozen=True)
class Default:
    """A precision out of `PRECISIONS`, and the reason for it.

    Attributes:
        precision: one of `PRECISIONS`.
        reason: in words, for the report.
        dtypes: the compute dtypes of 16 bits that the reason holds for;
            another is computed in.
    """

    precision: str
    reason: str
    dtypes: tuple[str, ...] = ("bfloat16", "float16")


PRODUCT = Default("float8", "a product of two matrices")
PROJECTIONS = Default(
    "compute",
    "scores and values, in FP8 by a recipe with attention=True; its "
    "projections are layers of their own",
)
DEPTHWISE = Default(
    "compute",
    "one multiplication for each weight and pixel: limited by memory, and GPUs "
    "have no FP8 kernel for one channel per group",
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
    "a small product in each time step, which waits for the one before; "
    "cuDNN's fused kernel has no FP8",
)
LOOKUP = Default("compute", "a lookup, not a product")
LOOKUP_AND_LOGITS = Default(
    "compute", "a lookup; tfmp has no FP8 layer for its logits"
)
STATISTICS = Default("compute", "statistics in float32, result in 16 bits")
SOFTMAX = Default("float32", "a sum of exponentials")
PREPARES = Default("float32", "it prepares data, which 16 bits would spoil")
PREPARED_FURTHER = Default("float32", "a layer behind it prepares data")
RESIZES = Default(
    "float32",
    "resizing by interpolation, whose gradient XLA cannot compile in 16 bits",
)
NO_KERNEL = Default(
    "float32", "TensorFlow has no float16 kernel of it for CPUs", ("float16",)
)
ELEMENTWISE = Default("compute", "no product")
OWN_CODE = Default("compute", "code of its own, which is not converted")

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
    layers.AveragePooling3D: NO_KERNEL,
    layers.MaxPooling3D: NO_KERNEL,
    layers.AdaptiveAveragePooling3D: NO_KERNEL,
    layers.AdaptiveMaxPooling3D: NO_KERNEL,
}
FLOAT32_ACTIVATIONS = ("softmax", "log_softmax", "exponential")


def default_of(layer: keras.Layer, dtype: str = "bfloat16") -> Default:
    """Returns the default of a layer: of its class, or the nearest base.

    Args:
        layer: any layer.
        dtype: of 16 bits, that the policy computes in.

    >>> default_of(layers.Softmax()).precision
    'float32'
    >>> default_of(layers.Conv2D(8, 3)).precision
    'float8'
    >>> default_of(layers.UpSampling2D(interpolation="bilinear")).precision
    'float32'
    """
    found = _default_of(layer)
    return found if dtype in found.dtypes else ELEMENTWISE


def _default_of(layer: keras.Layer) -> Default:
    if layer_kinds.is_preprocessing(layer):
        return PREPARES
    for base in type(layer).__mro__:
        if base in DEFAULTS:
            return DEFAULTS[base]
    if isinstance(layer, layers.UpSampling2D):
        resizes = layer.interpolation != "nearest"
        return RESIZES if resizes else ELEMENTWISE
    activation = getattr(layer, "activation", None)
    if isinstance(layer, layers.Activation):
        name = getattr(activation, "__name__", "")
        return SOFTMAX if name in FLOAT32_ACTIVATIONS else ELEMENTWISE
    return OWN_CODE if layer.weights else ELEMENTWISE
