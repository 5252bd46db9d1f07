"""The example `detection`: scenes, targets, losses and its metric."""

from __future__ import annotations

import numpy as np
import pytest

from examples import boxes, detection, locations, scenes
from examples.boxes import Found
from examples.harness.example import Data


def found(*rows: tuple[float, ...]) -> Found:
    """Detections from rows of a box, a class and a score."""
    table = np.array(rows, float).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4].astype(int), table[:, 5])


def precision(detections: Found, truth: Found, classes: int = 1) -> float:
    return boxes.mean_average_precision([detections], [truth], classes)


ONE = (10, 10, 20, 20)
TWO = (30, 30, 50, 40)
TRUTH = found((*ONE, 0, 1), (*TWO, 0, 1))


def test_scenes_have_boxes_of_what_can_be_seen():
    shown = np.full([1, scenes.SIDE, scenes.SIDE], scenes.NOTHING)
    shown[0, 2:12, 5:9] = 0
    shown[0, 10:30, 6:40] = 1  # over the lower rows of the first
    shown[0, 63, 63] = 2
    classes = np.zeros([1, 4], int)
    sizes = np.array([[40, 680, 2, 9]])  # the fourth cannot be seen
    made = scenes.Scenes(shown[..., None], shown, classes, sizes)
    expected = [[5, 2, 9, 12], [6, 10, 40, 30], [63, 63, 64, 64], [0] * 4]
    np.testing.assert_array_equal(scenes.boxes(made, 0.25), [expected])
    np.testing.assert_array_equal(scenes.boxes(made, 0.9)[0, 2], [0] * 4)


def test_pieces_have_several_sizes():
    bright = np.full([1, 28, 28], 255, "uint8")
    made = scenes.compose(bright, np.array([3]), 8, 2, 0, sides=(14, 40))
    assert set(np.unique(made.sizes)) == {14 * 14, 40 * 40}
    first = scenes.boxes(made, 1.0)
    whole = first[first[..., 2] > 0]
    assert {14.0, 40.0} == set((whole[:, 2:] - whole[:, :2]).ravel())


def test_overlaps_are_those_of_hand():
    other = np.array([ONE, (15, 10, 25, 20), TWO], float)
    found = boxes.overlaps(np.array([ONE], float), other)
    np.testing.assert_allclose(found, [[1, 1 / 3, 0]])


def test_suppression_keeps_the_best_of_a_class():
    near = (11, 10, 21, 20)  # an overlap of 9 / 11
    given = found((*ONE, 0, 0.9), (*near, 0, 0.8), (*near, 1, 0.7))
    kept = boxes.suppressed(given, most=0.6)
    np.testing.assert_array_equal(kept.scores, [0.9, 0.7])
    assert len(boxes.suppressed(given, most=0.9).scores) == 3


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        (TRUTH, 1.0),
        (found(), 0.0),
        (found((*ONE, 0, 0.9)), 51 / 101),  # half of the recalls
        # A second box of the same piece is wrong.
        (found((*ONE, 0, 0.9), (*ONE, 0, 0.8)), 51 / 101),
        # Right, wrong, right: precision 1 to a recall of 0.5, then 2/3.
        (
            found((*ONE, 0, 0.9), (0, 0, 5, 5, 0, 0.8), (*TWO, 0, 0.7)),
            (51 + 50 * 2 / 3) / 101,
        ),
        # An overlap of 0.72 is enough at 5 of 10 thresholds.
        (found((10, 10, 20, 17.2, 0, 0.9), (*TWO, 0, 0.8)), None),
    ],
)
def test_average_precision_is_that_of_hand(detections, expected):
    if expected is None:  # the first is wrong at five: 1 of 2, from then on
        expected = (5 + 5 * 51 / 101 * 1 / 2) / 10
    assert precision(detections, TRUTH) == pytest.approx(expected)


def test_a_class_that_is_nowhere_does_not_count():
    detections = found((*ONE, 0, 0.9), (*TWO, 0, 0.8), (*TWO, 2, 0.9))
    assert precision(detections, TRUTH, classes=3) == 1.0


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, 0.225713807909613), (1, 0.17763603218757557)]
)
def test_average_precision_is_that_of_pycocotools(seed, expected):
    """The numbers are what pycocotools 2.0 says of the same boxes."""
    random = np.random.default_rng(seed)
    truth, detections = [], []
    for _ in range(12):
        count = random.integers(1, 6)
        corners = random.integers(0, 40, (count, 2))
        sides = random.integers(4, 25, (count, 2))
        real = np.concatenate([corners, corners + sides], 1).astype(float)
        classes = random.integers(0, 3, count)
        truth.append(Found(real, classes, classes))
        many = random.integers(0, 3 * count)
        which = random.integers(0, count, many)
        near = real[which] + random.normal(0, 1.5, (many, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        right = random.random(many) < 0.8
        said = np.where(right, classes[which], random.integers(0, 3, many))
        scores = np.sort(random.random(many))[::-1]
        detections.append(Found(near, said, scores))
    ap = boxes.mean_average_precision(detections, truth, 3)
    assert ap == pytest.approx(expected, abs=1e-12)


def a_scene() -> Data:
    """A large box, a small one within it, and two that are not there."""
    made = np.zeros([1, 4, 4], "float32")
    made[0, 1], made[0, 2] = (8, 8, 56, 56), (26, 26, 38, 36)
    image = np.zeros([1, 64, 64, 1], "float32")
    return detection.Boxed(*[(image, (made, np.array([[0, 3, 5, 1]])))] * 2)


def targets(data: Data) -> np.ndarray:
    return next(iter(data.batches(1, seed=0)))[1].numpy()


def test_locations_near_the_center_have_to_find_the_box():
    made = targets(a_scene())
    centers, strides, _ = locations.locations()
    assert made.shape == (1, len(centers), 5) == (1, 80, 5)
    small, large = (made[0, :, 0] == which for which in (5, 3))
    assert set(strides[small]) == {8} and set(strides[large]) == {16}
    assert (np.abs(centers[small] - [32, 31]) < 7).all()
    at = np.flatnonzero(large)[0]
    sides = 16 * made[0, at, 1:]
    expected = [*(centers[at] - 8), *(56 - centers[at])]
    np.testing.assert_allclose(sides, expected)
    assert (made[0, ~(small | large), 0] == locations.BACKGROUND).all()


def perfect(made: np.ndarray) -> np.ndarray:
    """The outputs that say what the targets say."""
    outputs = np.full([*made.shape[:2], locations.CLASSES + 5], -20.0)
    has_box = made[..., 0] > locations.BACKGROUND
    of, at = np.nonzero(has_box)
    outputs[of, at, made[of, at, 0].astype(int)] = 20
    sides = np.where(has_box[..., None], made[..., 1:], 1)
    outputs[..., locations.CLASSES : -1] = np.log(sides)
    central = np.array(detection.centerness(sides)).clip(1e-6, 1 - 1e-6)
    outputs[..., -1] = np.log(central / (1 - central))
    return outputs


def test_perfect_outputs_are_decoded_to_the_boxes():
    data = a_scene()
    [said] = locations.decoded(perfect(targets(data)))
    order = np.argsort(said.classes)
    assert said.classes[order].tolist() == [3, 5]
    expected = data.train[1][0][0, 1:3]
    np.testing.assert_allclose(said.boxes[order], expected, atol=1e-3)

    class Model:
        def predict(self, x: np.ndarray, **_: object) -> np.ndarray:
            return perfect(targets(data))

    assert detection.average_precision(Model(), data) == 1.0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_loss_is_least_for_perfect_outputs(dtype):
    made = targets(a_scene())
    outputs, loss = perfect(made).astype(dtype), detection.Loss()
    best = float(loss(made, outputs))
    of, at = np.nonzero(made[..., 0] > locations.BACKGROUND)
    for changed in (0, locations.CLASSES, -1):
        worse = outputs.copy()
        worse[of, at, changed] = 3
        assert float(loss(made, worse)) > best + 0.1
    wild = np.where(outputs > 0, 40, outputs)
    assert np.isfinite(loss(made, wild.astype(dtype)))


def test_generalized_iou_is_that_of_hand():
    """A box of 2 x 2 and one of 4 x 2 from the same corner; one in another."""
    one = np.array([[1, 1, 1, 1], [1, 1, 1, 1]], "float32")
    other = np.array([[1, 1, 3, 1], [2, 2, 2, 2]], "float32")
    ious = np.array(detection.generalized_iou(one, other))
    np.testing.assert_allclose(ious, [1 / 2, 4 / 16])
    corner = np.array([[1, 1, 3, 1]], "float32")
    along = np.array([[1, 1, 1, 3]], "float32")
    ious = np.array(detection.generalized_iou(corner, along))
    np.testing.assert_allclose(ious, [4 / 12 - 4 / 16], rtol=1e-6)
