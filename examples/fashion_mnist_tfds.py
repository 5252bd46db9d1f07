"""Fashion-MNIST as a tensorflow-datasets folder, written and read offline.

Imported only where tensorflow-datasets is wanted; on Python 3.11 that needs
`pip install tensorflow-datasets importlib_resources`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from fashion_mnist_idx import Array, Split

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class FashionMnist(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,
):
    """Builds `fashion_mnist` from arrays instead of from a download.

    Name, version and features are those of tensorflow-datasets' own builder,
    which therefore reads what this one wrote.  That one holds the name, so
    this one is not registered.

    Args:
        splits: `{"train": (images, labels), "test": (images, labels)}`, images
            uint8 [n, 28, 28] and labels integers [n].
        data_dir: the tensorflow-datasets folder to write to.
    """

    VERSION = tfds.core.Version("3.0.1")

    def __init__(self, *, splits: dict[str, Split], data_dir: str) -> None:
        """Keeps the arrays and makes the builder's info."""
        self._splits = splits
        super().__init__(data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="28x28 grayscale images of Zalando's articles.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            license="MIT, Copyright (c) 2017 Zalando SE",
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # Nothing to download.
        return {
            name: self._generate_examples(images, labels)
            for name, (images, labels) in self._splits.items()
        }

    def _generate_examples(
        self, images: Array, labels: Array
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": image[..., np.newaxis], "label": int(label)}


def prepare(splits: dict[str, Split], data_dir: str) -> None:
    """Writes `fashion_mnist` to a tensorflow-datasets folder.

    Args:
        splits: see `FashionMnist`.
        data_dir: the folder, which is made if need be.

    Raises:
        ValueError: if the folder already holds this version of it.
    """
    builder = FashionMnist(splits=splits, data_dir=data_dir)
    if builder.is_prepared():
        raise ValueError(
            "`data_dir` must not hold this version of fashion_mnist yet. "
            f"Received: {data_dir!r}"
        )
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config)


def read(data_dir: str) -> tuple[Split, Split]:
    """Reads both splits from a tensorflow-datasets folder that holds them.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images uint8 [n, 28, 28] and
        labels int64 [n].
    """
    loaded = tfds.load(
        "fashion_mnist",
        split=["train", "test"],
        data_dir=data_dir,
        batch_size=-1,
        as_supervised=True,
        download=False,
    )
    train, test = tfds.as_numpy(loaded)
    return _squeezed(*train), _squeezed(*test)


def _squeezed(images: Array, labels: Array) -> Split:
    return images[..., 0], labels.astype(np.int64)
