"""Vision: a ResNet with bottlenecks learns Fashion-MNIST.

The network of arXiv 1512.03385, section 4.2, with its blocks (1x1, 3x3, 1x1,
BatchNorm after each) and, for images of 28 x 28, the first layer of its section
4.2 on CIFAR-10: a 3x3 convolution, no pooling.  It is trained as there, by SGD
with momentum and weight decay; the rate falls as a cosine (arXiv 1608.03983)
and labels are smoothed (arXiv 1512.00567).  The last BatchNorm of a block
starts at zero (arXiv 1706.02677).
"""

from __future__ import annotations

import pathlib
from typing import Any

import fashion_mnist_data
import keras
from keras import layers

from examples.harness.example import Data, Example, Metric, cosine, one_hot
from examples.harness.settings import Size

CLASSES = 10
WIDTHS, BLOCKS, EXPANSION = (16, 32, 64), 2, 4
STEM = 1
SMOKE = 256


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """The shipped 12,000 images; with `--full` all 70,000."""
    parts = fashion_mnist_data.load(full=size is Size.FULL)
    count = SMOKE if size is Size.SMOKE else None
    return Data(
        *(
            (
                x[:count, ..., None].astype("float32") / 255,
                one_hot(y[:count], CLASSES),
            )
            for x, y in parts
        )
    )


def model(data: Data) -> keras.Model:
    """Three stages of bottlenecks; each but the first halves the image."""
    start = keras.Input(data.train[0].shape[1:])
    x = normalized(start, WIDTHS[0], 3, strides=STEM)
    for stage, width in enumerate(WIDTHS):
        for block in range(BLOCKS):
            halves = stage > 0 and block == 0
            x = bottleneck(layers.ReLU()(x), width, 2 if halves else 1)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(start, layers.Dense(CLASSES)(x), name="resnet")


def bottleneck(x: Any, width: int, strides: int) -> Any:
    """Narrow, convolve, widen again, and add what came in."""
    wide = EXPANSION * width
    y = layers.ReLU()(normalized(x, width, 1))
    y = layers.ReLU()(normalized(y, width, 3, strides))
    y = normalized(y, wide, 1, gamma="zeros")
    if strides > 1 or x.shape[-1] != wide:
        x = normalized(x, wide, 1, strides)
    return layers.add([x, y])


def normalized(
    x: Any, width: int, size: int, strides: int = 1, gamma: str = "ones"
) -> Any:
    """A convolution and BatchNorm, which makes a bias superfluous."""
    x = layers.Conv2D(
        width,
        size,
        strides,
        "same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    return layers.BatchNormalization(momentum=0.9, gamma_initializer=gamma)(x)


def optimizer(steps: int) -> keras.optimizers.Optimizer:
    """SGD as published, but for the schedule; no decay of BatchNorm."""
    made = keras.optimizers.SGD(
        cosine(0.1, steps), momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    made.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return made


EXAMPLE = Example(
    name="images",
    field="vision",
    says="a ResNet with bottlenecks on Fashion-MNIST",
    data=data,
    model=model,
    optimizer=optimizer,
    loss=lambda: keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1
    ),
    metric=Metric("accuracy", keras.metrics.CategoricalAccuracy, 100, "%"),
    epochs=8,
    batch_size=128,
)
