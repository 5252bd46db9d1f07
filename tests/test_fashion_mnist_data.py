"""Tests of the Fashion-MNIST example's data."""

from __future__ import annotations

import gzip
import importlib.util
import pathlib
import re
import socket
import sys
import time
from typing import Any, NoReturn

import numpy as np
import pytest
import tensorflow as tf
from absl import app, flags
from absl.testing import flagsaver

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

import fashion_mnist_data as data
import fashion_mnist_idx as idx

IDX = "train-labels-idx1-ubyte.gz"
PER_CLASS = {"train": 1_000, "test": 200}
HEADER = bytes([0, 0, 8, 1, 0, 0, 0, 3])

needs_debian = pytest.mark.skipif(
    not data.DEBIAN.is_dir(),
    reason="needs all of Fashion-MNIST: apt-get install dataset-fashion-mnist",
)


def write_gzip(path: pathlib.Path, content: bytes) -> pathlib.Path:
    path.write_bytes(gzip.compress(content))
    return path


def make_split(n: int, seed: int) -> idx.Split:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (n, 28, 28)).astype(np.uint8)
    return images, np.arange(n, dtype=np.int64) % 10


def assert_same(first: Any, second: Any) -> None:
    for a, b in zip(first, second, strict=True):
        for left, right in zip(a, b, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def splits() -> dict[str, idx.Split]:
    """Random images: few, and of another number in each split."""
    return {"train": make_split(30, 1), "test": make_split(20, 2)}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """A machine without the full data and without a network."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("must not use the network")

    monkeypatch.setattr(data, "DEBIAN", tmp_path / "no_debian")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def small(
    monkeypatch: pytest.MonkeyPatch, splits: dict[str, idx.Split]
) -> None:
    """Takes the random splits for all of Fashion-MNIST."""
    sizes = {name: len(labels) for name, (_, labels) in splits.items()}
    monkeypatch.setattr(data, "FULL", sizes)


def write_folder(
    folder: pathlib.Path, splits: dict[str, idx.Split]
) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    for name, (images, labels) in splits.items():
        images_path, labels_path = idx.files(folder, name)
        idx.write_idx(images_path, images)
        idx.write_idx(labels_path, labels.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def tfds_dir(
    tmp_path_factory: pytest.TempPathFactory, splits: dict[str, idx.Split]
) -> str:
    """A tensorflow-datasets folder, made by the script."""
    pytest.importorskip("tensorflow_datasets")
    source = write_folder(tmp_path_factory.mktemp("source"), splits)
    target = str(tmp_path_factory.mktemp("tfds"))
    run_script(["--source", str(source), "--prepare_tfds", target])
    return target


def run_script(arguments: list[str]) -> None:
    if "prepare_tfds" not in flags.FLAGS:
        data._define_flags()
    with flagsaver.flagsaver():
        argv = flags.FLAGS(["fashion_mnist_data.py", *arguments])
        data.main(argv)


# The shipped subset.


def test_subset_is_stratified() -> None:
    for (images, labels), per_class in zip(
        data.load(full=False), PER_CLASS.values(), strict=True
    ):
        assert images.shape == (10 * per_class, 28, 28)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(np.bincount(labels), [per_class] * 10)


def test_subset_is_small_and_carries_its_licence() -> None:
    sizes = {path.name: path.stat().st_size for path in data.SUBSET.iterdir()}
    gz = {path.name for s in idx.PREFIXES for path in idx.files("", s)}
    assert sizes.keys() == {*gz, "LICENSE", "README.md"}
    assert sum(sizes.values()) < 5.5e6
    licence = (data.SUBSET / "LICENSE").read_text()
    assert "MIT" in licence and "(c) 2017 Zalando SE" in licence


def test_subset_files_carry_no_time_and_no_name() -> None:
    for split in idx.PREFIXES:
        for path in idx.files(data.SUBSET, split):
            header = path.read_bytes()[:10]
            assert header[3] == 0  # No name.
            assert header[4:8] == bytes(4)  # No time.


@needs_debian
def test_subset_is_made_again_from_the_full_set() -> None:
    for split, per_class in PER_CLASS.items():
        images, labels = idx.read_split(data.DEBIAN, split)
        kept = data.stratified(labels, per_class, seed=0)
        assert len(set(kept.tolist())) == 10 * per_class
        shipped = idx.read_split(data.SUBSET, split)
        assert_same([shipped], [(images[kept], labels[kept])])


@needs_debian
def test_full_comes_from_debian(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for (images, labels), n in zip(
        data.load(full=True), (60_000, 10_000), strict=True
    ):
        assert images.shape == (n, 28, 28)
        np.testing.assert_array_equal(np.bincount(labels), [n // 10] * 10)


def test_script_makes_a_subset(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    splits: dict[str, idx.Split],
) -> None:
    monkeypatch.setattr(data, "SUBSET_PER_CLASS", {"train": 2, "test": 1})
    source = str(write_folder(tmp_path / "source", splits))
    made = {}
    for name, seed in {"a": 3, "b": 3, "c": 4}.items():
        target = tmp_path / name
        arguments = ["--source", source, "--target", str(target)]
        run_script([*arguments, "--seed", str(seed)])
        made[name] = [p.read_bytes() for p in sorted(target.iterdir())]
        _, labels = idx.read_split(target, "train")
        np.testing.assert_array_equal(np.bincount(labels), [2] * 10)
    assert len(made["a"]) == 4
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_script_wants_something_to_do() -> None:
    with pytest.raises(app.UsageError, match="--target, --prepare_tfds"):
        run_script([])


def test_stratified_wants_enough_of_each_class() -> None:
    labels = np.repeat(np.arange(10), 3)[:-1]
    with pytest.raises(ValueError, match=r"`labels`.* 3 times.*Received.* 2"):
        data.stratified(labels, 3, seed=0)


# Files.


@pytest.mark.parametrize("shape", [(0,), (5,), (3, 28, 28), (2, 1, 4, 3)])
def test_idx_round_trip(tmp_path: pathlib.Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    idx.write_idx(tmp_path / "a.gz", array)
    read = data.read_idx(tmp_path / "a.gz")
    assert read.dtype == np.uint8 and read.shape == shape
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


def test_read_idx_reads_the_format_as_published(tmp_path: pathlib.Path) -> None:
    path = write_gzip(tmp_path / IDX, HEADER + b"\1\2\3")
    np.testing.assert_array_equal(data.read_idx(path), [1, 2, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins 0000"),
        (b"\0\0\x08", "begins 0000"),
        (b"\1\0" + HEADER[2:] + b"\1\2\3", "begins 0000.*01000801"),
        (b"\0\0\x0d" + HEADER[3:] + b"\1\2\3", r"dtype 08 \(ubyte\).*0d"),
        (HEADER[:6], "header of 8 bytes.* 6"),
        (HEADER + b"\1\2", r"shape \(3,\).* 2"),
        (HEADER + b"\1\2\3\4", r"shape \(3,\).* 4"),
    ],
)
def test_damaged_idx(
    tmp_path: pathlib.Path, content: bytes, message: str
) -> None:
    path = write_gzip(tmp_path / IDX, content)
    expected = re.escape(str(path)) + f".*{message}"
    with pytest.raises(ValueError, match=expected):
        data.read_idx(path)


def test_damaged_gzip(tmp_path: pathlib.Path) -> None:
    whole = write_gzip(tmp_path / IDX, HEADER + b"\1\2\3").read_bytes()
    flipped = whole[:12] + bytes([whole[12] ^ 255]) + whole[13:]
    for content in (whole[:-9], whole[:5], HEADER, flipped):
        (tmp_path / IDX).write_bytes(content)
        with pytest.raises(ValueError, match=f"{IDX}.*whole gzip.*Received: "):
            data.read_idx(tmp_path / IDX)


def test_files_that_do_not_fit(
    tmp_path: pathlib.Path, splits: dict[str, idx.Split]
) -> None:
    folder = write_folder(tmp_path, splits)
    images_path, labels_path = idx.files(folder, "test")
    for labels, message in (
        (np.zeros(19, np.uint8), r"20 labels.*\(19,\)"),
        (np.full(20, 10, np.uint8), "from 0 to 9.*10"),
    ):
        idx.write_idx(labels_path, labels)
        with pytest.raises(ValueError, match=f"t10k-labels.*{message}"):
            idx.read_split(folder, "test")
    idx.write_idx(images_path, np.zeros((20, 28, 27), np.uint8))
    with pytest.raises(ValueError, match=r"t10k-images.*\(20, 28, 27\)"):
        idx.read_split(folder, "test")


# Where the full data comes from.


@pytest.mark.usefixtures("small", "nowhere")
def test_full_from_a_folder_of_files(
    tmp_path: pathlib.Path, splits: dict[str, idx.Split]
) -> None:
    folder = write_folder(tmp_path / "files", splits)
    loaded = data.load(full=True, data_dir=str(folder))
    assert_same(loaded, splits.values())


@pytest.mark.usefixtures("small", "nowhere")
def test_full_from_tfds(tfds_dir: str, splits: dict[str, idx.Split]) -> None:
    loaded = data.load(full=True, data_dir=tfds_dir)
    assert_same(loaded, splits.values())


@pytest.mark.usefixtures("small", "nowhere")
def test_full_from_the_default_tfds_folder_first(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    tfds_dir: str,
    splits: dict[str, idx.Split],
) -> None:
    swapped = {"train": splits["test"], "test": splits["train"]}
    monkeypatch.setattr(data, "DEBIAN", write_folder(tmp_path / "d", swapped))
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
    assert_same(data.load(full=True), splits.values())


@pytest.mark.usefixtures("small", "nowhere")
def test_full_without_tensorflow_datasets(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    tfds_dir: str,
    splits: dict[str, idx.Split],
) -> None:
    monkeypatch.setattr(data, "DEBIAN", write_folder(tmp_path / "d", splits))
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "fashion_mnist_tfds", None)
    assert_same(data.load(full=True), splits.values())


def test_prepare_does_not_overwrite(
    tfds_dir: str, splits: dict[str, idx.Split]
) -> None:
    import fashion_mnist_tfds

    with pytest.raises(ValueError, match=r"`data_dir` must not hold"):
        fashion_mnist_tfds.prepare(splits, tfds_dir)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("given", [True, False])
def test_nothing_found_fails_fast(tmp_path: pathlib.Path, given: bool) -> None:
    data_dir = str(tmp_path / "given") if given else None
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"`data_dir` must hold") as error:
        data.load(full=True, data_dir=data_dir)
    assert time.monotonic() - start < 5
    message = str(error.value)
    for way in ("dataset-fashion-mnist", "tfds build", "-ubyte.gz"):
        assert way in message
    assert f"Received: {data_dir!r}" in message


@pytest.mark.usefixtures("nowhere")
def test_the_subset_is_not_taken_for_the_full_set() -> None:
    with pytest.raises(ValueError, match=r"Received: .*'train': 10000"):
        data.load(full=True, data_dir=str(data.SUBSET))


def test_data_dir_without_full() -> None:
    with pytest.raises(ValueError, match=r"`data_dir` must be None.*'here'"):
        data.load(full=False, data_dir="here")


# tf.data.


def orders(
    seed: int, training: bool = True, epochs: int = 2
) -> list[list[int]]:
    """Returns each epoch's order of 50 images, told apart by their labels."""
    x = np.zeros((50, 28, 28), np.uint8)
    batches = data.dataset(x, np.arange(50), 8, seed, training)
    return [
        [int(label) for _, labels in batches for label in labels]
        for _ in range(epochs)
    ]


def test_order_follows_the_seed() -> None:
    first, second = orders(seed=5)
    assert first != second
    assert orders(seed=5) == [first, second]
    assert orders(seed=6)[0] != first


def test_training_shuffles_over_everything() -> None:
    epochs = orders(seed=5, epochs=40)
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    # A buffer of one batch would keep the last image out of the first.
    assert any(49 in epoch[:8] for epoch in epochs)


def test_evaluation_keeps_order_and_remainder() -> None:
    assert orders(seed=5, training=False) == [list(range(50))] * 2


def test_images_are_scaled() -> None:
    x = np.arange(2 * 28 * 28).astype(np.uint8).reshape(2, 28, 28)
    batches = data.dataset(x, np.array([7, 3]), 2, seed=0, training=False)
    images, labels = next(iter(batches))
    assert images.dtype == tf.float32
    np.testing.assert_allclose(images, x / np.float32(255), rtol=1e-6)
    assert (float(np.min(images)), float(np.max(images))) == (0.0, 1.0)
    np.testing.assert_array_equal(labels, [7, 3])


def test_images_stay_with_their_labels() -> None:
    x = np.broadcast_to(
        np.arange(50, dtype=np.uint8)[:, None, None], (50, 28, 28)
    )
    for images, labels in data.dataset(x, np.arange(50), 8, 0, training=True):
        np.testing.assert_array_equal(
            np.round(images[:, 0, 0] * 255), labels.numpy()
        )


@pytest.mark.parametrize("training", [True, False])
def test_batch_shapes(training: bool) -> None:
    x, y = make_split(10, seed=0)
    batches = data.dataset(x, y, 4, seed=0, training=training)
    shape = [4 if training else None, 28, 28]
    assert batches.element_spec[0].shape.as_list() == shape
    assert len(list(batches)) == (2 if training else 3)


def test_dataset_arguments() -> None:
    x, y = make_split(10, seed=0)
    with pytest.raises(TypeError, match=r"`x` must be uint8.*float64"):
        data.dataset(x / 255, y, 4, 0, training=True)
    with pytest.raises(ValueError, match=r"`y`.*\(10,\).*Received: \(9,\)"):
        data.dataset(x, y[:9], 4, 0, training=True)
    for batch_size in (0, 11):
        with pytest.raises(ValueError, match=f"Received: {batch_size}"):
            data.dataset(x, y, batch_size, 0, training=True)
    assert len(list(data.dataset(x, y, 11, 0, training=False))) == 1
