"""Fashion-MNIST's own file format: gzipped idx files of unsigned bytes."""

from __future__ import annotations

import gzip
import os
import pathlib
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Split = tuple[Array, Array]
Path = str | os.PathLike[str]

CLASSES = 10
PREFIXES = {"train": "train", "test": "t10k"}

_UBYTE = 8


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a gzipped idx file of unsigned bytes.

    The header is `0, 0, 8, rank` in bytes, then `rank` big-endian 32-bit
    sizes; the values follow in C order.

    Args:
        path: the file.

    Returns:
        A new uint8 array of the header's shape.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not gzip, is truncated, has another magic
            number or dtype, or has not as many values as its header says.
    """
    try:
        with gzip.open(path, "rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _bad_file(path, "a whole gzip file", error) from error
    if len(data) < 4 or data[:2] != b"\0\0":
        raise _bad_file(path, "an idx file, which begins 0000", data[:4].hex())
    if data[2] != _UBYTE:
        raise _bad_file(path, "idx of dtype 08 (ubyte)", f"{data[2]:02x}")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise _bad_file(path, f"a header of {start} bytes", len(data))
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist())
    values = np.frombuffer(data, np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise _bad_file(path, f"values for the shape {shape}", values.size)
    return values.reshape(shape).copy()


def _bad_file(path: Path, allowed: str, received: object) -> ValueError:
    return ValueError(
        f"`path` {os.fspath(path)} must have {allowed}. Received: {received}"
    )


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Writes what `read_idx` reads; the same array gives the same bytes."""
    header = bytes([0, 0, _UBYTE, array.ndim])
    sizes = np.asarray(array.shape, ">u4").tobytes()
    with open(path, "wb") as raw:
        # Neither the time nor the file's name goes into the gzip header.
        with gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
            file.write(header + sizes + array.tobytes())


def files(folder: Path, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns where the images and the labels of a split are."""
    prefix = PREFIXES[split]
    return (
        pathlib.Path(folder) / f"{prefix}-images-idx3-ubyte.gz",
        pathlib.Path(folder) / f"{prefix}-labels-idx1-ubyte.gz",
    )


def read_split(folder: Path, split: str) -> Split:
    """Reads `"train"` or `"test"` from a folder of gzipped idx files.

    Returns:
        Images uint8 [n, 28, 28] and labels int64 [n].

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or the two do not fit together.
    """
    images_path, labels_path = files(folder, split)
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28):
        raise _bad_file(images_path, "the shape (n, 28, 28)", images.shape)
    if labels.shape != images.shape[:1]:
        raise _bad_file(labels_path, f"{len(images)} labels", labels.shape)
    if labels.size and labels.max() >= CLASSES:
        raise _bad_file(labels_path, "labels from 0 to 9", labels.max())
    return images, labels.astype(np.int64)
