"""Keras' weights files, as bytes.

Keras writes an HDF5 file to a path, and HDF5 brings the process down if the
disk is full when the file is closed (HDF5 1.14: `H5F_close`, exit status 139).
Here HDF5 writes to memory; what goes to the disk are bytes, and an error there
is an `OSError`.
"""

from __future__ import annotations

import io

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
