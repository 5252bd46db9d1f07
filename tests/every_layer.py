"""Every layer of Keras: what it is called on, and made of."""

from __future__ import annotations

import inspect
import types
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def integers(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(high, size=shape, dtype="int32")


VECTORS = floats(2, 4)
SEQUENCES = floats(2, 6, 4)
IMAGES = floats(2, 6, 6, 4)
VOLUMES = floats(2, 4, 4, 4, 2)
VIDEOS = floats(2, 3, 6, 6, 2)
FILMS = floats(1, 2, 4, 4, 4, 1)
PHOTOS = integers(256, 2, 16, 16, 3).astype("float32")
SOUNDS = floats(2, 400)
TOKENS = integers(10, 2, 6)
WORDS = np.array([["a", "b"], ["c", "a"]])
PAIR = [SEQUENCES, SEQUENCES[::-1].copy()]
LABELLED = {"images": PHOTOS, "labels": np.eye(2, dtype="float32")}
BOXES = {"boxes": floats(2, 1, 4), "labels": floats(2, 1)}


class Case(NamedTuple):
    """What a layer is called on and made of; a function is called first."""

    inputs: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - a field, and never changed


# A name with {} stands for three layers: of sequences, images and volumes.
RANKS = {"1D": SEQUENCES, "2D": IMAGES, "3D": VOLUMES}
OF_EVERY_RANK = {
    "AdaptiveAveragePooling{}": (2,),
    "AdaptiveMaxPooling{}": (2,),
    "AveragePooling{}": (2,),
    "Conv{}": (3, 2),
    "Conv{}Transpose": (3, 2),
    "Cropping{}": (1,),
    "GlobalAveragePooling{}": (),
    "GlobalMaxPooling{}": (),
    "MaxPooling{}": (2,),
    "SpatialDropout{}": (0.5,),
    "UpSampling{}": (2,),
    "ZeroPadding{}": (1,),
}
OF_PHOTOS = {
    "AugMix": (),
    "AutoContrast": (),
    "CenterCrop": (5, 5),
    "ContrastLimitedAdaptiveHistogramEqualization": (),
    "Equalization": (),
    "Pipeline": (lambda: [layers.Rescaling(0.1), layers.RandomFlip()],),
    "RandAugment": (),
    "RandomBrightness": (0.5,),
    "RandomColorDegeneration": (0.5,),
    "RandomColorJitter": ((0, 255), 0.5, 0.5, 0.5, 0.5),
    "RandomContrast": (0.5,),
    "RandomCrop": (5, 5),
    "RandomElasticTransform": (),
    "RandomErasing": (),
    "RandomFlip": (),
    "RandomGaussianBlur": (),
    "RandomGrayscale": (),
    "RandomHue": (0.5,),
    "RandomInvert": (),
    "RandomPerspective": (),
    "RandomPosterization": (4,),
    "RandomRotation": (0.2,),
    "RandomSaturation": (0.5,),
    "RandomSharpness": (0.5,),
    # Keras cannot load the (-0.5, 0.5) that it makes of 0.5.
    "RandomShear": ((0.1, 0.5),),
    "RandomTranslation": (0.5, 0.5),
    "RandomZoom": (0.5,),
    "Rescaling": (0.1, 0.5),
    "Resizing": (5, 5),
    "Solarization": (),
}
OF_VECTORS = {
    "Activation": ("gelu",),
    "ActivityRegularization": (0.1,),
    "AlphaDropout": (0.5,),
    "Dense": (3,),
    "Discretization": ([-0.5, 0.5],),
    "Dropout": (0.5,),
    "ELU": (),
    "GaussianDropout": (0.5,),
    "GaussianNoise": (0.5,),
    "Identity": (),
    "Lambda": (lambda: keras.ops.tanh,),
    "LeakyReLU": (),
    "Normalization": (-1, 1.0, 2.0),
    "PReLU": ("uniform",),
    "ReLU": (),
    "RepeatVector": (3,),
    "Reshape": ((2, 2),),
    "Softmax": (),
    "UnitNormalization": (),
}
OF_SEQUENCES = {
    "Bidirectional": (lambda: layers.GRU(3),),
    "DepthwiseConv1D": (2,),
    "EinsumDense": ("abc,cd->abd", (None, 3)),
    "GRU": (3,),
    "LSTM": (3,),
    "LayerNormalization": (),
    "Masking": (),
    "Permute": ((2, 1),),
    "RMSNormalization": (),
    "RNN": (lambda: [layers.LSTMCell(3), layers.SimpleRNNCell(2)],),
    "SeparableConv1D": (3, 2),
    "SimpleRNN": (3,),
    "TimeDistributed": (lambda: layers.Dense(3),),
}
OF_IMAGES = {
    "BatchNormalization": (),
    "ConvLSTM1D": (2, 2),
    "DepthwiseConv2D": (2,),
    "Flatten": (),
    "GroupNormalization": (2,),
    "SeparableConv2D": (3, 2),
    "SpectralNormalization": (lambda: layers.Conv2D(3, 2),),
}
OF_PAIRS = {
    "Add": (),
    "AdditiveAttention": (),
    "Attention": (True,),
    "Average": (),
    "Concatenate": (),
    "Dot": (2,),
    "GroupQueryAttention": (4, 2, 1),
    "Maximum": (),
    "Minimum": (),
    "MultiHeadAttention": (2, 3),
    "Multiply": (),
    "Subtract": (),
}
OTHERS = {
    "CategoryEncoding": Case(TOKENS, (10,)),
    "ConvLSTM2D": Case(VIDEOS, (2, 2)),
    "ConvLSTM3D": Case(FILMS, (2, 2)),
    "CutMix": Case(LABELLED),
    "Embedding": Case(TOKENS, (10, 4), {"mask_zero": True}),
    "HashedCrossing": Case([TOKENS[0], TOKENS[1]], (5,)),
    "Hashing": Case(TOKENS, (5,)),
    "IntegerLookup": Case(TOKENS, (), {"vocabulary": [1, 2, 3]}),
    "MaxNumBoundingBoxes": Case(
        {"images": PHOTOS, "bounding_boxes": BOXES},
        (3,),
        {"bounding_box_format": "xyxy"},
    ),
    "MelSpectrogram": Case(SOUNDS, (64, 32), {"num_mel_bins": 8}),
    "MixUp": Case(LABELLED),
    "ReversibleEmbedding": Case(TOKENS, (10, 4)),
    # Its default window needs scipy.
    "STFTSpectrogram": Case(
        SOUNDS[..., None], ("log", 32, 16, 64), {"window": None}
    ),
    "StringLookup": Case(WORDS, (), {"vocabulary": ["a", "b"]}),
    "TextVectorization": Case(WORDS[0], (), {"vocabulary": ["a", "b"]}),
}
CASES = {
    **{
        name.format(rank): Case(inputs, args)
        for name, args in OF_EVERY_RANK.items()
        for rank, inputs in RANKS.items()
    },
    **{
        name: Case(inputs, args)
        for inputs, table in (
            (PHOTOS, OF_PHOTOS),
            (VECTORS, OF_VECTORS),
            (SEQUENCES, OF_SEQUENCES),
            (IMAGES, OF_IMAGES),
            (PAIR, OF_PAIRS),
        )
        for name, args in table.items()
    },
    **OTHERS,
}
# What an RNN is made of, and takes the place of here.
CELLS = {
    "GRUCell": lambda: layers.GRUCell(3),
    "LSTMCell": lambda: layers.LSTMCell(3),
    "SimpleRNNCell": lambda: layers.SimpleRNNCell(3),
    "StackedRNNCells": lambda: layers.StackedRNNCells(
        [layers.GRUCell(3), layers.LSTMCell(2)]
    ),
}
EXCLUDED = {
    "FlaxLayer": "needs flax and Keras on JAX",
    "InputLayer": "has no call; in the model of the file test",
    "JaxLayer": "needs jax",
    "Layer": "abstract; a user's own layer has a test below",
    "TFSMLayer": "needs a file; has a test below",
    "TorchModuleWrapper": "needs Keras on PyTorch",
    "Wrapper": "abstract",
}


def make(name: str, **more: Any) -> layers.Layer:
    """Makes a layer; its random state depends on nothing made before."""
    keras.utils.set_random_seed(0)
    if name in CELLS:
        return layers.RNN(CELLS[name](), **more)
    case = CASES[name] if name in CASES else VARIANTS[name]
    made = [
        arg() if isinstance(arg, types.FunctionType) else arg
        for arg in case.args
    ]
    cls = getattr(layers, name.partition(",")[0])
    return cls(*made, **{**case.kwargs, **more})


def inputs_of(name: str) -> Any:
    if name in CELLS:
        return SEQUENCES
    return (CASES[name] if name in CASES else VARIANTS[name]).inputs


def call(layer: layers.Layer, inputs: Any, training: bool) -> Any:
    takes = inspect.signature(layer.call).parameters
    kwargs = {"training": training} if "training" in takes else {}
    several = "query" in takes
    return layer(*inputs, **kwargs) if several else layer(inputs, **kwargs)


# Arguments that make a layer compute in another way.
VARIANTS = {
    "UpSampling2D, bilinear": Case(IMAGES, (2,), {"interpolation": "bilinear"}),
    "UpSampling2D, bicubic": Case(IMAGES, (2,), {"interpolation": "bicubic"}),
    "UpSampling2D, lanczos3": Case(IMAGES, (2,), {"interpolation": "lanczos3"}),
    "Activation, softmax": Case(VECTORS, ("softmax",)),
    "Conv2D, same": Case(IMAGES, (3, 2, 2), {"padding": "same"}),
    "Conv2D, groups": Case(IMAGES, (4, 2), {"groups": 2}),
    "Conv2DTranspose, strides": Case(IMAGES, (3, 2, 2)),
    "MaxPooling2D, same": Case(IMAGES, (3, 2, "same")),
    "AveragePooling2D, same": Case(IMAGES, (3, 2, "same")),
    "GRU, plain": Case(SEQUENCES, (3,), {"reset_after": False}),
    "LSTM, unrolled": Case(SEQUENCES, (3,), {"unroll": True}),
    "LSTM, sequences": Case(SEQUENCES, (3,), {"return_sequences": True}),
    "LayerNormalization, axes": Case(IMAGES, ((1, 3),)),
    "Dense, softmax": Case(VECTORS, (3, "softmax")),
    "ZeroPadding2D, uneven": Case(IMAGES, (((1, 2), (0, 3)),)),
}


def train(
    layer: Any, inputs: Any, jit_compile: bool, dtype: str = "float32"
) -> str:
    """Runs the forward and the backward pass of a training step.

    The inputs come from a trained operator, so that their gradient is computed
    too, and in `dtype`: XLA fails where that gradient is in another one.

    Returns:
        "", or what went wrong.
    """
    gain = tf.Variable(1.0)

    def scaled(x: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if x.dtype != tf.float32:
            return x
        return tf.nn.relu(tf.cast(x * gain, dtype))

    def step() -> tuple[tf.Tensor, list[Any]]:
        with tf.GradientTape() as tape:
            x = keras.tree.map_structure(scaled, inputs)
            outputs = keras.tree.flatten(call(layer, x, training=True))
            wide = [tf.cast(y, "float32") for y in outputs if is_float(y)]
            loss = tf.add_n([tf.reduce_mean(y * y) for y in wide] or [gain])
        weights = [gain, *(w.value for w in layer.trainable_weights)]
        found = tape.gradient(loss, weights)
        return loss, [tf.convert_to_tensor(g) for g in found if g is not None]

    function = tf.function(step, autograph=False, jit_compile=jit_compile)
    try:
        loss, gradients = function()
    except Exception as error:
        return " ".join(str(error).split())
    finite = [bool(np.isfinite(x).all()) for x in (loss, *gradients)]
    return "" if all(finite) else "not finite"


def is_float(x: Any) -> bool:
    return bool(x.dtype.is_floating)


class Around(layers.Layer):
    """A user's layer: another one, called by code of its own."""

    def __init__(self, make_inner: Any) -> None:
        super().__init__()
        self.inner = make_inner()

    def call(self, inputs: Any, training: bool = False) -> Any:
        return call(self.inner, inputs, training)
