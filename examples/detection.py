"""Detection: a one-stage detector finds the clothes in scenes, and their boxes.

The network is FCOS (arXiv 1904.01355): no anchors, but at each location of a
feature pyramid (arXiv 1612.03144) the logits of the classes, the distances to
the four sides of a box, and how central the location is in it.  Losses are the
focal loss (arXiv 1708.02002) of the classes, the generalized IoU (arXiv
1902.09630) of the boxes, and a cross-entropy of the centerness.

A scene (`scenes.py`) has three images of Fashion-MNIST of three sizes; a box
surrounds what can be seen of a piece.  Which location has to find which box is
decided in the `tf.data` pipeline (`locations.py`).

The metric is COCO's AP, the mean over IoU thresholds from 0.5 to 0.95.
"""

from __future__ import annotations

import pathlib
from typing import Any

import fashion_mnist_data
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from examples import images, scenes
from examples.boxes import Found, mean_average_precision
from examples.harness.example import AUTO, Data, Example, Metric, cosine
from examples.harness.settings import Size
from examples.locations import (
    BACKGROUND,
    CLASSES,
    STRIDES,
    decoded,
    with_targets,
)

PIECES, SIDES, LEAST_VISIBLE = 3, (16, 24, 32), 0.25
# Width and depth of each stage; the last ones are the levels of the pyramid.
BACKBONE, CHANNELS, GROUPS = ((32, 1), (64, 1), (128, 2), (128, 1)), 64, 8
SCENES = {
    Size.SMOKE: (64, 16),
    Size.USUAL: (2000, 300),
    Size.FULL: (30_000, 2000),
}


class Boxed(Data):
    """Scenes with boxes and classes, of which a batch makes targets."""

    def batches(self, batch_size: int, seed: int) -> tf.data.Dataset:
        return super().batches(batch_size, seed).map(with_targets, AUTO)

    def validation_batches(self, batch_size: int) -> tf.data.Dataset:
        return super().validation_batches(batch_size).map(with_targets, AUTO)


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Scenes of the shipped images; with `--full`, of all 70,000."""
    made = []
    parts = fashion_mnist_data.load(full=size is Size.FULL)
    for seed, (part, count) in enumerate(zip(parts, SCENES[size], strict=True)):
        composed = scenes.compose(*part, count, PIECES, seed, SIDES)
        boxes = scenes.boxes(composed, LEAST_VISIBLE)
        made.append((composed.images, (boxes, composed.classes)))
    return Boxed(*made)


def model(data: Data) -> keras.Model:
    """Backbone, pyramid, and one head for all its levels.

    Returns:
        A model with outputs [batch, locations, 15]: logits of the classes,
        logarithms of the distances in strides, and the logit of centerness.
    """
    start = keras.Input(data.train[0].shape[1:])
    x, levels = start, []
    for width, depth in BACKBONE:
        for at in range(depth):
            x = images.normalized(x, width, 3, 2 if at == 0 else 1)
            x = layers.ReLU()(x)
        levels.append(x)
    levels = [layers.Conv2D(CHANNELS, 1)(x) for x in levels[-len(STRIDES) :]]
    for finer in reversed(range(len(levels) - 1)):
        up = layers.UpSampling2D()(levels[finer + 1])
        levels[finer] = layers.add([levels[finer], up])
    levels = [layers.Conv2D(CHANNELS, 3, padding="same")(x) for x in levels]
    found = head()
    outputs = layers.concatenate([found(x) for x in levels], axis=1)
    return keras.Model(start, outputs, name="fcos")


def head() -> keras.Model:
    """Two towers: classes; distances and centerness."""
    start = keras.Input([None, None, CHANNELS])
    rare = keras.initializers.Constant(-np.log(99.0))  # a hundredth is found
    parts = []
    for width, bias in ((CLASSES, rare), (5, "zeros")):
        x = layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False)(start)
        x = layers.ReLU()(layers.GroupNormalization(GROUPS)(x))
        x = layers.Conv2D(width, 3, padding="same", bias_initializer=bias)(x)
        parts.append(layers.Reshape([-1, width])(x))
    return keras.Model(start, layers.concatenate(parts), name="head")


class Loss(keras.losses.Loss):
    """Focal loss, generalized IoU, and centerness, per location with a box."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        classes, sides = y_true[..., 0], y_true[..., 1:]
        logits, logarithms = y_pred[..., :CLASSES], y_pred[..., CLASSES:-1]
        has_box = ops.cast(classes > BACKGROUND, "float32")
        count = ops.maximum(ops.sum(has_box), 1)
        focal = CLASSES * keras.losses.binary_focal_crossentropy(
            ops.one_hot(ops.cast(classes, "int32"), CLASSES),
            logits,
            apply_class_balancing=True,
            from_logits=True,
        )
        sides = ops.where(has_box[..., None] > 0, sides, 1.0)
        central = has_box * centerness(sides)
        boxes = central * (1 - generalized_iou(sides, ops.exp(logarithms)))
        entropy = has_box * keras.losses.binary_crossentropy(
            central[..., None], y_pred[..., -1:], from_logits=True
        )
        total = ops.sum(focal) + ops.sum(entropy)
        box = ops.sum(boxes) / ops.maximum(ops.sum(central), 1e-3)
        return total / count + box


def centerness(sides: Any) -> Any:
    """Returns 1 at the center of a box, 0 at its edges."""
    left, top, right, bottom = ops.unstack(sides, 4, -1)
    across = ops.minimum(left, right) / ops.maximum(left, right)
    along = ops.minimum(top, bottom) / ops.maximum(top, bottom)
    return ops.sqrt(across * along)


def generalized_iou(one: Any, other: Any) -> Any:
    """Of boxes about the same location, by their distances [..., 4]."""
    inner, outer = ops.minimum(one, other), ops.maximum(one, other)
    both, one, other, around = (
        ops.prod(x[..., :2] + x[..., 2:], -1)
        for x in (inner, one, other, outer)
    )
    union = one + other - both
    return both / union - (around - union) / around


def average_precision(model: keras.Model, data: Data) -> float:
    """COCO's AP on the scenes to validate."""
    x, labels = data.validation
    found = decoded(model.predict(x, batch_size=100, verbose=0))
    truth = []
    for boxes, classes in zip(*labels, strict=True):
        real = boxes[:, 2] > 0
        truth.append(Found(boxes[real], classes[real], np.ones(real.sum())))
    return mean_average_precision(found, truth, CLASSES)


EXAMPLE = Example(
    name="detection",
    field="vision, boxes",
    says="a one-stage detector on scenes of Fashion-MNIST",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(1e-2, steps), weight_decay=1e-2
    ),
    loss=Loss,
    metric=Metric("AP", measure=average_precision, factor=100, unit="%"),
    epochs=5,
    batch_size=16,
)
