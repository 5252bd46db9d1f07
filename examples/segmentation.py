"""Segmentation: a U-Net finds real pieces of clothing in scenes.

A scene is 64 x 64 pixels with four images of Fashion-MNIST, turned at random
and put anywhere, the later ones over the earlier, and noise behind them.  The
label of a pixel is the class of the piece that it shows, or the background.
A piece is where its image is brighter than a sixth.  Scenes to validate are
made of the test images only.

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

from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import Size

SIDE, PIECE, PIECES, CLASSES = 64, 28, 4, 11
BACKGROUND, BRIGHT, NOISE = 10, 42, 40
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
            scenes(images, labels, count, seed)
            for seed, ((images, labels), count) in enumerate(
                zip(parts, SCENES[size], strict=True)
            )
        )
    )


def scenes(
    images: np.ndarray, labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Composes scenes [count, 64, 64, 1] from 0 to 1, and classes of pixels."""
    random = np.random.default_rng(seed)
    x = random.integers(0, NOISE, [count, SIDE, SIDE], "uint8")
    y = np.full(x.shape, BACKGROUND, "uint8")
    for scene, classes in zip(x, y, strict=True):
        for which in random.integers(0, len(images), PIECES):
            piece = np.rot90(images[which], random.integers(4))
            top, left = random.integers(0, SIDE - PIECE + 1, 2)
            place = np.s_[top : top + PIECE, left : left + PIECE]
            seen = piece > BRIGHT
            scene[place][seen] = piece[seen]
            classes[place][seen] = labels[which]
    return x[..., None].astype("float32") / 255, y


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
