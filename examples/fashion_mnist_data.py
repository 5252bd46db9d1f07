"""Fashion-MNIST without a download: the data of the Fashion-MNIST example.

A subset of the real images is shipped next to this file, 10,000 to train on
and 2,000 to test.  It was made, and is made again, by:

    python examples/fashion_mnist_data.py \
        --source /usr/share/datasets/fashion-mnist \
        --target examples/data/fashion_mnist

All 70,000 images come from a tensorflow-datasets folder or from the four files
of the original, never from the network; see `load`.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib

import numpy as np
import tensorflow as tf
from absl import app, flags
from fashion_mnist_idx import (
    CLASSES,
    PREFIXES,
    Array,
    Path,
    Split,
    files,
    read_idx,
    read_split,
    write_idx,
)

__all__ = ["dataset", "load", "make_subset", "read_idx", "read_split"]

FULL = {"train": 60_000, "test": 10_000}
SUBSET_PER_CLASS = {"train": 1_000, "test": 200}
SUBSET = pathlib.Path(__file__).parent / "data" / "fashion_mnist"
DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")

_GET_IT = """\
all of Fashion-MNIST. Three ways to get it:
  1. apt-get install dataset-fashion-mnist, which is found by itself;
  2. tfds build fashion_mnist, on a machine with a network; give its folder as
     `data_dir`, or as the environment variable TFDS_DATA_DIR;
  3. the four *-ubyte.gz files of github.com/zalandoresearch/fashion-mnist in
     one folder; give it as `data_dir`.
"""


def stratified(labels: Array, per_class: int, seed: int) -> Array:
    """Draws `per_class` indices of every class, in ascending order.

    Raises:
        ValueError: if a class has fewer than `per_class`.
    """
    fewest = np.bincount(labels, minlength=CLASSES).min()
    if fewest < per_class:
        raise ValueError(
            f"`labels` must hold each class {per_class} times or more. "
            f"Received: a class that is there {fewest} times"
        )
    # RandomState's streams are frozen; those of default_rng may change.
    random = np.random.RandomState(seed)
    drawn = [
        random.permutation(np.flatnonzero(labels == c))[:per_class]
        for c in range(CLASSES)
    ]
    return np.sort(np.concatenate(drawn))


def make_subset(source: Path, target: Path, seed: int) -> None:
    """Writes the stratified subset of `source` to the folder `target`."""
    pathlib.Path(target).mkdir(parents=True, exist_ok=True)
    for split, per_class in SUBSET_PER_CLASS.items():
        images, labels = read_split(source, split)
        kept = stratified(labels, per_class, seed)
        images_path, labels_path = files(target, split)
        write_idx(images_path, images[kept])
        write_idx(labels_path, labels[kept].astype(np.uint8))


def load(full: bool, data_dir: str | None = None) -> tuple[Split, Split]:
    """Loads the shipped subset or, with `full`, all of Fashion-MNIST.

    Args:
        full: False for the shipped 10,000 + 2,000 images.  True for all
            60,000 + 10,000: from `data_dir` if it is given, else from the
            user's tensorflow-datasets folder, else from the Debian package
            `dataset-fashion-mnist`.
        data_dir: a tensorflow-datasets folder that holds `fashion_mnist`, or
            a folder with the original's four files.  Only with `full`.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images uint8 [n, 28, 28] and
        labels int64 [n].

    Raises:
        ValueError: if no full data is found, if what is found is not all of
            it, or if `data_dir` comes without `full`.
    """
    if not full:
        if data_dir is not None:
            raise ValueError(
                "`data_dir` must be None unless `full` is True. "
                f"Received: {data_dir!r}"
            )
        return read_split(SUBSET, "train"), read_split(SUBSET, "test")
    train, test = _find_full(data_dir)
    received = {"train": len(train[0]), "test": len(test[0])}
    if received != FULL:
        raise ValueError(f"`data_dir` must hold {_GET_IT}Received: {received}")
    return train, test


def _find_full(data_dir: str | None) -> tuple[Split, Split]:
    if data_dir is not None:
        tfds_folder, idx_folder = data_dir, data_dir
    else:
        default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        tfds_folder, idx_folder = os.path.expanduser(default), str(DEBIAN)
    # Without `data_dir`, a user without tensorflow-datasets can go on.
    usable = data_dir is not None or importlib.util.find_spec(
        "tensorflow_datasets"
    )
    if usable and holds_tfds(tfds_folder):
        import fashion_mnist_tfds

        return fashion_mnist_tfds.read(tfds_folder)
    if all(f.is_file() for s in PREFIXES for f in files(idx_folder, s)):
        return read_split(idx_folder, "train"), read_split(idx_folder, "test")
    raise ValueError(
        f"`data_dir` must hold {_GET_IT}Received: {data_dir!r}; neither "
        f"fashion_mnist in {tfds_folder} nor four files in {idx_folder}"
    )


def holds_tfds(data_dir: Path) -> bool:
    """Whether a tensorflow-datasets folder holds `fashion_mnist`."""
    infos = pathlib.Path(data_dir).glob("fashion_mnist/*/dataset_info.json")
    return next(infos, None) is not None


def dataset(
    x: Array, y: Array, batch_size: int, seed: int, training: bool
) -> tf.data.Dataset:
    """Makes batches of images scaled to [0, 1].

    Args:
        x: images, uint8 [n, 28, 28].
        y: labels, integers [n].
        batch_size: images in a batch, from 1; at most n for training.
        seed: of the order.  The same seed gives the same order (under the
            same `tf.random.set_seed`), which is another one in every epoch.
        training: shuffle over all n images, and leave out a last, smaller
            batch.

    Returns:
        Batches of images float32 [b, 28, 28] and labels [b].

    Raises:
        TypeError: if `x` is not uint8.
        ValueError: if `y` or `batch_size` does not fit `x`.
    """
    if x.dtype != np.uint8:
        raise TypeError(f"`x` must be uint8. Received: {x.dtype}")
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"`y` must be of shape {x.shape[:1]}. Received: {y.shape}"
        )
    if batch_size < 1 or (training and batch_size > len(x)):
        raise ValueError(
            f"`batch_size` must be from 1 to {len(x)}. Received: {batch_size}"
        )
    batches = tf.data.Dataset.from_tensor_slices((x, y))
    if training:
        batches = batches.shuffle(len(x), seed, reshuffle_each_iteration=True)
    batches = batches.batch(batch_size, drop_remainder=training)
    batches = batches.map(_scale, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def _scale(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(x, tf.float32) / 255.0, y


def _define_flags() -> None:
    # Only as a script: the training script has flags of its own.
    flags.DEFINE_string("source", str(DEBIAN), "Folder of the full idx files.")
    flags.DEFINE_string("target", None, "Folder to write the subset to.")
    flags.DEFINE_integer("seed", 0, "Seed of the subset.")
    flags.DEFINE_string(
        "prepare_tfds",
        None,
        "tensorflow-datasets folder to write all images of --source to.",
    )


def main(argv: list[str]) -> None:
    """Makes the subset, a tensorflow-datasets folder, or both."""
    values = flags.FLAGS
    if len(argv) > 1 or not (values.target or values.prepare_tfds):
        raise app.UsageError("Give --target, --prepare_tfds or both.")
    if values.target:
        make_subset(values.source, values.target, values.seed)
    if values.prepare_tfds:
        import fashion_mnist_tfds

        splits = {s: read_split(values.source, s) for s in PREFIXES}
        fashion_mnist_tfds.prepare(splits, values.prepare_tfds)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
