"""Locations of a feature pyramid: which has to find which box, and back.

As in FCOS (arXiv 1904.01355, section 3; center sampling as in its journal
version, arXiv 2006.09214).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from examples.boxes import Found, suppressed
from examples.scenes import SIDE

CLASSES, BACKGROUND = 10, -1
STRIDES, REACH = (8, 16), (0, 16, np.inf)  # pixels that a level reaches
RADIUS = 1.5  # strides from the center of a box
LEAST_SCORE, MOST_OVERLAP, MOST_FOUND = 0.05, 0.6, 100


def locations() -> tuple[np.ndarray, ...]:
    """Returns centers [n, 2], strides [n], and reach [n, 2] of all levels."""
    centers, strides, reach = [], [], []
    for at, stride in enumerate(STRIDES):
        along = np.arange(stride / 2, SIDE, stride)
        grid = np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)
        centers.append(grid)
        strides.append(np.full(len(grid), stride))
        reach.append(np.tile(REACH[at : at + 2], (len(grid), 1)))
    found = (centers, strides, reach)
    return tuple(np.concatenate(x).astype("float32") for x in found)


def with_targets(x: Any, labels: Any) -> tuple[Any, Any]:
    """Gives each location the class and the sides that it has to find.

    It is the smallest box that holds the location near its center, and whose
    sides are as far away as its level reaches.

    Returns:
        Images, and targets [batch, locations, 5]: the class, or BACKGROUND;
        distances to left, top, right and bottom in strides.
    """
    boxes, classes = labels
    centers, strides, reach = locations()
    boxes = boxes[:, None]  # [batch, 1, pieces, 4]
    start = centers[:, None] - boxes[..., :2]
    end = boxes[..., 2:] - centers[:, None]
    distances = tf.concat([start, end], -1)
    farthest = tf.reduce_max(distances, -1)
    off = tf.reduce_max(tf.abs(start - end) / 2, -1)
    fits = (tf.reduce_min(distances, -1) > 0) & (
        off < RADIUS * strides[:, None]
    )
    fits &= (farthest > reach[:, :1]) & (farthest <= reach[:, 1:])
    area = tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], -1)
    smallest = tf.argmin(tf.where(fits, area, np.inf), -1)[..., None]
    which = tf.gather_nd(classes, smallest, batch_dims=1)
    which = tf.where(tf.reduce_any(fits, -1), which, BACKGROUND)
    sides = tf.gather_nd(distances, smallest, batch_dims=2) / strides[:, None]
    which = tf.cast(which, tf.float32)[..., None]
    return x, tf.concat([which, sides], -1)


def decoded(outputs: np.ndarray) -> list[Found]:
    """Returns the boxes that the outputs [n, locations, 15] mean."""
    centers, strides, _ = locations()
    outputs = outputs.astype("float32")
    scores = 1 / (1 + np.exp(-outputs))
    scores = np.sqrt(scores[..., :CLASSES] * scores[..., -1:])
    sides = np.exp(outputs[..., CLASSES:-1]) * strides[:, None]
    sides[..., :2] *= -1
    boxes = np.clip(np.tile(centers, 2) + sides, 0, SIDE)
    found = []
    for image, own in zip(scores, boxes, strict=True):
        best = np.argsort(-image, None, "stable")[:MOST_FOUND]
        where, which = np.unravel_index(best, image.shape)
        kept = image[where, which] > LEAST_SCORE
        where, which = where[kept], which[kept]
        each = Found(own[where], which, image[where, which])
        found.append(suppressed(each, MOST_OVERLAP))
    return found
