"""Scenes composed of Fashion-MNIST's images, several in one.

A scene is 64 x 64 pixels with pieces of clothing put anywhere, the later ones
over the earlier, and noise behind them.  A piece is where its image is brighter
than a sixth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

SIDE = 64
BRIGHT, NOISE = 42, 40
NOTHING = -1


class Scenes(NamedTuple):
    """Composed images, and what they show.

    Attributes:
        images: float32 [count, 64, 64, 1], from 0 to 1.
        shown: which of its pieces each pixel shows, int [count, 64, 64];
            NOTHING between them.
        classes: of the pieces, int [count, pieces].
        sizes: pixels of each piece, also those that others hide.
    """

    images: np.ndarray
    shown: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray


def compose(
    images: np.ndarray,
    labels: np.ndarray,
    count: int,
    pieces: int,
    seed: int,
    sides: Sequence[int] = (28,),
    turns: int = 1,
) -> Scenes:
    """Composes scenes.

    Args:
        images: uint8 [n, 28, 28].
        labels: their classes, integers [n].
        count: how many scenes.
        pieces: how many in a scene.
        seed: of all that is random.
        sides: to which the images are scaled at random.
        turns: how many quarter turns there are to choose from.
    """
    random = np.random.default_rng(seed)
    scaled = [rescaled(images, side) for side in sides]
    scenes = random.integers(0, NOISE, [count, SIDE, SIDE], "uint8")
    shown = np.full(scenes.shape, NOTHING)
    drawn = np.zeros([count, pieces], int)
    sizes = np.zeros([count, pieces], int)
    for at, scene in enumerate(scenes):
        drawn[at] = random.integers(0, len(images), pieces)
        for number, which in enumerate(drawn[at]):
            piece = scaled[random.integers(len(scaled))][which]
            piece = np.rot90(piece, random.integers(turns))
            top, left = random.integers(0, SIDE - len(piece) + 1, 2)
            place = np.s_[top : top + len(piece), left : left + len(piece)]
            seen = piece > BRIGHT
            scene[place][seen] = piece[seen]
            shown[at][place][seen] = number
            sizes[at, number] = seen.sum()
    x = scenes[..., None].astype("float32") / 255
    return Scenes(x, shown, labels[drawn], sizes)


def rescaled(images: np.ndarray, side: int) -> np.ndarray:
    """Scales images uint8 [n, 28, 28] to another side."""
    if side == images.shape[1]:
        return images
    large = keras.ops.image.resize(
        images[..., None].astype("float32"), [side, side], antialias=True
    )
    return np.array(large)[..., 0].round().astype("uint8")


def boxes(scenes: Scenes, least: float) -> np.ndarray:
    """Returns the boxes of what can be seen of each piece.

    Args:
        scenes: composed ones.
        least: the share of its pixels that a piece must show.

    Returns:
        float32 [count, pieces, 4]: left, top, right, bottom; zeros for a piece
        that shows less.
    """
    made = np.zeros([*scenes.classes.shape, 4], "float32")
    for number in range(made.shape[1]):
        visible = scenes.shown == number
        enough = visible.sum((1, 2)) >= least * scenes.sizes[:, number]
        for axis in (0, 1):  # along x, along y
            any_there = visible.any(1 + axis)
            made[:, number, axis] = any_there.argmax(1)
            made[:, number, 2 + axis] = SIDE - any_there[:, ::-1].argmax(1)
        made[~enough, number] = 0
    return made
