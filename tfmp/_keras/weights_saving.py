"""Keras' weights files, written to memory and read from an open file.

Keras writes an HDF5 file to a path, and HDF5 brings the process down if the
disk is full when the file is closed (HDF5 1.14: `H5F_close`, exit status 139).
Here HDF5 writes to memory; what goes to the disk are bytes, and an error there
is an `OSError`.  And Keras opens the path that it reads: by then it may be
another file than the one whose digest was right.
"""

from __future__ import annotations

import io
import weakref
import zipfile
from typing import IO, Any

import keras
from keras.src.saving import saving_lib


def weights_of(model: keras.Model) -> io.BytesIO:
    """Returns what `model.save_weights` would write.

    Args:
        model: built.
    """
    held = io.BytesIO()
    store = saving_lib.H5IOStore(held, mode="w")
    saving_lib._save_state(
        model,
        weights_store=store,
        assets_store=None,
        inner_path="",
        visited_saveables=set(),
    )
    store.close()
    return held


def save_once(store: Any, optimizer: Any) -> None:
    """Has the inner optimizer's arrays, once in a file, linked to there.

    Keras saves them with the outer optimizer, and again with the inner one.
    HDF5 knows a dataset under two names, which no reader can tell from two.

    Args:
        store: to which `optimizer` was saved.
        optimizer: with an `inner_optimizer`, whose variables are its last.
    """
    inner = optimizer.inner_optimizer
    plain = keras.optimizers.Optimizer.save_own_variables
    if type(store) is not saving_lib.H5IOStore:
        return
    if type(inner).save_own_variables is not plain:
        return
    saved, count = store._h5_entry_group, len(inner.variables)
    first = len(optimizer.variables) - count
    this: Any = weakref.ref(store)

    def link(inner_store: Any) -> None:
        """Points at what is saved, in the same file; saves it in another."""
        forget()
        group = inner_store._h5_entry_group
        if inner_store is not this() or not inner_store._h5_entry_initialized:
            inner.save_own_variables(inner_store)
            return
        for i in range(count):
            group[str(i)] = saved[str(first + i)]

    def forget() -> None:
        if vars(inner).get("save_own_variables") is link:
            del inner.save_own_variables

    # For one call, which Keras makes next, or has made before: the model may
    # have the inner optimizer as an attribute of its own.
    inner.save_own_variables = link
    weakref.finalize(store, forget).atexit = False


def load(model: keras.Model, file: IO[bytes]) -> None:
    """Does what `model.load_weights` does with a path, with an open file.

    Args:
        model: built.
        file: at its start; HDF5, also behind other bytes, or a `.keras` file.

    Raises:
        Exception: whatever Keras, h5py and zipfile raise of a file that is
            broken or does not fit.
    """
    is_archive = file.read(2) == b"PK"
    file.seek(0)
    if is_archive:
        with zipfile.ZipFile(file) as archive:
            name = saving_lib._VARS_FNAME_H5
            _load(model, saving_lib.H5IOStore(name, archive, mode="r"))
    else:
        _load(model, saving_lib.H5IOStore(_Stream(file), mode="r"))


def _load(model: keras.Model, store: Any) -> None:
    failed: set[int] = set()
    messages: dict[int, Any] = {}
    saving_lib._load_state(
        model,
        weights_store=store,
        assets_store=None,
        inner_path="",
        skip_mismatch=False,
        visited_saveables=set(),
        failed_saveables=failed,
        error_msgs=messages,
    )
    store.close()
    if failed:
        saving_lib._raise_loading_failure(messages)


class _Stream(io.BytesIO):
    """An open file as Keras takes one: by this class alone."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file: Any = file

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer."""
        return int(self._file.readinto(buffer))

    def read(self, size: int | None = -1) -> bytes:
        """Reads bytes."""
        return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a place."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Returns the place."""
        return int(self._file.tell())
