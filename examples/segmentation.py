"""Segmentation: a U-Net finds real pieces of clothing in scenes.

A scene (`scenes.py`) has four images of Fashion-MNIST, each turned by quarters
at random, on 64 x 64 pixels.  The label of a pixel is the class of the piece
that it shows, or the background.  Scenes to validate are made of the test
images only.

The network is that of arXiv 1505.04597, smaller, with convolutions that keep
the size ("same") and BatchNorm after each.
"""

from __future__ import annotations

import pathlib
from typing import Any

import fashion_mnist_data
import keras
import numpy as np
from keras import layers

from examples import scenes
from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import Size

CLASSES, BACKGROUND = 11, 10
PIECES, TURNS = 4, 4
WIDTHS = (16, 32, 64)
SCENES = {
    Size.SMOKE: (64, 16),
    Size.USUAL: (4000, 500),
    Size.FULL: (30_000, 2000),
}


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Scenes of the shipped images; with `--full`, of all 70,000."""
    parts = fashion_mnist_data.load(full=size is Size.FULL)
    return Data(
        *(
            labelled(scenes.compose(*part, count, PIECES, seed, turns=TURNS))
            for seed, (part, count) in enumerate(
                zip(parts, SCENES[size], strict=True)
            )
        )
    )


def labelled(made: scenes.Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, and the class of each pixel, uint8 [count, 64, 64]."""
    rows = np.arange(len(made.classes))[:, None, None]
    classes = made.classes[rows, made.shown]
    classes[made.shown == scenes.NOTHING] = BACKGROUND
    return made.images, classes.astype("uint8")


def model(data: Data) -> keras.Model:
    """Down by halves, up again, and across at each size."""
    start = x = keras.Input(data.train[0].shape[1:])
    across = []
    for width in WIDTHS:
        x = convolved(x, width)
        across.append(x)
        x = layers.MaxPooling2D()(x)
    x = convolved(x, 2 * WIDTHS[-1])
    for width, kept in zip(WIDTHS[::-1], across[::-1], strict=True):
        x = layers.Conv2D(width, 2, padding="same")(layers.UpSampling2D()(x))
        x = convolved(layers.concatenate([kept, x]), width)
    return keras.Model(start, layers.Conv2D(CLASSES, 1)(x), name="unet")


def convolved(x: Any, width: int) -> Any:
    """Two convolutions, each with BatchNorm."""
    for _ in range(2):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return x


EXAMPLE = Example(
    name="segmentation",
    field="vision, dense",
    says="a U-Net on scenes of Fashion-MNIST",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(2e-3, steps), weight_decay=1e-2
    ),
    loss=lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metric=Metric(
        "mean IoU",
        lambda: keras.metrics.MeanIoU(CLASSES, sparse_y_pred=False),
        100,
        "%",
    ),
    epochs=8,
    batch_size=32,
)
