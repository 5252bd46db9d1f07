"""Boxes: overlap, non-maximum suppression, and mean average precision.

A box is left, top, right, bottom, and includes no pixel of its last two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


class Found(NamedTuple):
    """Boxes of one image: [n, 4], classes [n], and scores [n] of detections.

    They are sorted, the highest score first.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def areas(boxes: np.ndarray) -> np.ndarray:
    """Returns the areas of boxes [..., 4]."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the intersection over the union of [n, 4] and [m, 4]: [n, m]."""
    one, other = one[:, None], other[None]
    start = np.maximum(one[..., :2], other[..., :2])
    end = np.minimum(one[..., 2:], other[..., 2:])
    both = np.maximum(end - start, 0).prod(-1)
    return both / np.maximum(areas(one) + areas(other) - both, 1e-9)


def suppressed(found: Found, most: float) -> Found:
    """Drops each box that overlaps a better one of its class by more.

    Args:
        found: what a network says, best first.
        most: the intersection over the union that is allowed.
    """
    alike = found.classes[:, None] == found.classes
    apart = ~(alike & (overlaps(found.boxes, found.boxes) > most))
    kept = np.ones(len(found.scores), bool)
    for at in range(len(kept)):
        if kept[at]:
            kept[at + 1 :] &= apart[at, at + 1 :]
    return Found(*(each[kept] for each in found))


def mean_average_precision(
    found: list[Found], truth: list[Found], classes: int
) -> float:
    """Returns COCO's AP: the mean over classes and over THRESHOLDS.

    Precision is read at 101 recalls.  A class that no image has does not count.
    """
    precisions = []
    for which in range(classes):
        wanted = [each.boxes[each.classes == which] for each in truth]
        if any(map(len, wanted)):
            precisions.append(average_precisions(found, wanted, which))
    return float(np.mean(precisions))


def average_precisions(
    found: list[Found], wanted: list[np.ndarray], which: int
) -> np.ndarray:
    """Returns the average precision of one class at each of THRESHOLDS."""
    scores, right = [], []
    for image, boxes in zip(found, wanted, strict=True):
        own = image.classes == which
        scores.append(image.scores[own])
        right.append(matched(image.boxes[own], boxes))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right)[order].cumsum(0)
    precision = hits / np.arange(1, len(hits) + 1)[:, None]
    # What a lower score also reaches counts, as in COCO.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hits / sum(map(len, wanted))
    means = np.zeros(len(THRESHOLDS))
    for at in range(len(THRESHOLDS)):
        read = np.searchsorted(recall[:, at], RECALLS)
        reached = read[read < len(hits)]
        means[at] = precision[reached, at].sum() / len(RECALLS)
    return means


def matched(boxes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Says which detections, best first, find a box that none did before.

    Returns:
        bool [n, 10], for each of THRESHOLDS.
    """
    right = np.zeros([len(boxes), len(THRESHOLDS)], bool)
    if not len(wanted):
        return right
    overlap = overlaps(boxes, wanted)
    for at, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(wanted), bool)
        for number, row in enumerate(overlap):
            best = np.where(free, row, -1).argmax()
            if free[best] and row[best] >= threshold - 1e-10:
                free[best] = False
                right[number, at] = True
    return right
