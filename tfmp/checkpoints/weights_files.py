"""Weights files that are whole, and say so if they are not."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import IO, Any

import keras

from tfmp._keras import weights_saving
from tfmp._support import checks, sealed_files
from tfmp.checkpoints import heads
from tfmp.checkpoints.training_state import all_or_nothing, unsaved

SUFFIXES = (".weights.h5", ".keras")
STARTS = (b"\x89HDF\r\n\x1a\n", b"PK")
FIRST_MISFIT = re.compile(
    r"for object (<.*?>):\n\n(.*?)(?:, value=|\n\nList of)", re.DOTALL
)


def save_weights(
    model: keras.Model,
    path: str | os.PathLike[str],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Saves a model's whole state, in one step, under a SHA-256 digest.

    The file is a Keras weights file, which `model.load_weights` reads; in its
    first bytes, HDF5's user block, are what such a file has no place for, the
    seeds of random layers and the values of metrics, and the digest of all.
    `tail -n +2 FILE | sha256sum` prints what its first line says.

    It is written beside its place, to disk, and renamed: a process that is
    killed meanwhile leaves the old file, or the new one.  Under
    `MultiWorkerMirroredStrategy` every worker calls it, with the same path:
    what replicas hold apart is put together by a collective.

    Args:
        model: a built model; of a compiled one, the optimizer too.
        path: a local path that ends in `.weights.h5`.
        notes: what `load_weights` is to return, such as `{"step": 100}`:
            anything that JSON has.

    Raises:
        TypeError: if `path` is not a path, or `notes` is not for JSON.
        ValueError: if `path` has another suffix, or the model is not built.

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(model, f"{folder}/a.weights.h5", {"step": 100})
    ...     load_weights(model, f"{folder}/a.weights.h5")
    {'step': 100}
    """
    checked = _checked(path, SUFFIXES[:1])
    _check_built(model)
    said = "a dictionary, or None"
    checks.instance("notes", notes, Mapping | None, said)
    extra = {name: heads.encode(v) for name, v in unsaved(model).items()}
    head = {"notes": dict(notes or {}), "layers": _layers(model), **extra}
    sealed_files.write(checked, lambda: weights_saving.weights_of(model), head)


def load_weights(
    model: keras.Model, path: str | os.PathLike[str]
) -> dict[str, Any]:
    """Loads a weights file, or leaves the model as it was, bit for bit.

    Loads the files of `save_weights` and those of Keras, `.weights.h5` and
    `.keras`; into a model with other recipes or windows, without FP8, or with
    FP8 from a file without: what the file lacks counts as not observed.  The
    optimizer of a compiled model is built first, so that its state is loaded.

    Of a file that Keras wrote, without a digest, changed bytes are noticed
    only if they make it unreadable, or by a `.keras` file's CRC-32.

    Args:
        model: a built model.
        path: a local path that ends in `.weights.h5` or `.keras`.

    Returns:
        The `notes` it was saved with; empty for a file of Keras.

    Raises:
        TypeError: if `path` is not a path.
        FileNotFoundError: if there is no such file.
        ValueError: if the file was cut short or changed, is no weights file,
            or does not fit: the first layer that does not is named.

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_weights(f"{folder}/of_keras.weights.h5")
    ...     load_weights(model, f"{folder}/of_keras.weights.h5")
    {}
    """
    checked = _checked(path, SUFFIXES)
    _check_built(model)
    with open(checked, "rb") as file, all_or_nothing(model):
        head = _head(file, checked)
        _check_layers(model, head["layers"], checked)
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        _load(model, file, checked)
        _load_unsaved(model, head, checked)
    found: dict[str, Any] = head["notes"]
    return found


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the `notes` of a weights file without loading it.

    Args:
        path: as for `load_weights`.

    Returns:
        What `load_weights` would return.

    Raises:
        TypeError: if `path` is not a path.
        FileNotFoundError: if there is no such file.
        ValueError: if the file was cut short or changed, or is no weights
            file.

    >>> read_notes("model.weights")
    Traceback (most recent call last):
    ValueError: `path` must end in '.weights.h5' or '.keras'. Received: \
'model.weights'
    """
    checked = _checked(path, SUFFIXES)
    with open(checked, "rb") as file:
        found: dict[str, Any] = _head(file, checked)["notes"]
        return found


def _checked(path: Any, suffixes: Sequence[str]) -> pathlib.Path:
    path = checks.path("path", path)
    if not str(path).endswith(tuple(suffixes)):
        allowed = " or ".join(repr(suffix) for suffix in suffixes)
        raise ValueError(
            f"`path` must end in {allowed}. Received: {str(path)!r}"
        )
    found: pathlib.Path = path
    return found


def _check_built(model: keras.Model) -> None:
    checks.instance("model", model, keras.Model, "a Keras model")
    if not model.built:
        raise ValueError(
            "`model` must be built: call it on a batch, or `model.build`. "
            f"Received: {model.name!r}"
        )


def _head(file: IO[bytes], path: pathlib.Path) -> dict[str, Any]:
    """Returns what `save_weights` put in the head, nothing for Keras' files.

    A head that is not recognised is no head: the file must then start as
    those of Keras do, so that no change makes one pass for the other.
    """
    head = sealed_files.read(file, path)
    file.seek(0)
    start = file.read(len(STARTS[0]))
    if head is None and not start.startswith(STARTS):
        raise ValueError(
            "`path` must be a weights file, HDF5 or `.keras`. Received: "
            f"{str(path)!r}, which starts with {start!r}"
        )
    return heads.checked({} if head is None else head, path)


def _layers(model: keras.Model) -> list[str]:
    """Returns the paths of the layers that have weights, in their order."""
    names = (v.path.rpartition("/")[0] for v in model.weights)
    return [name for name, _ in itertools.groupby(names)]


def _check_layers(
    model: keras.Model, saved: Sequence[str], path: pathlib.Path
) -> None:
    """Keras notices what a file lacks, not what it has too many."""
    count = len(_layers(model))
    if len(saved) > count:
        raise ValueError(
            f"`path` must hold the weights of the model {model.name!r}, which "
            f"has {count} layers with weights. Received: {str(path)!r}, with "
            f"{len(saved)}; the first additional one is {saved[count]!r}"
        )


def _load(model: keras.Model, file: IO[bytes], path: pathlib.Path) -> None:
    file.seek(0)
    try:
        weights_saving.load(model, file)
    except Exception as error:  # h5py and zipfile raise what they happen on
        raise ValueError(
            "`path` must be a whole weights file that fits the model "
            f"{model.name!r}. Received: {str(path)!r} ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    """Returns what Keras says of the first layer, without the weights."""
    first = FIRST_MISFIT.search(str(error))
    text = ": ".join(first.groups()) if first else str(error)
    return " ".join(text.split())


def _load_unsaved(
    model: keras.Model, head: Mapping[str, Any], path: pathlib.Path
) -> None:
    """Loads seeds and metrics; before a first step, metrics may be missing."""
    for name, group in unsaved(model).items():
        saved = head[name]
        if heads.fits(saved, group):
            for variable, value in zip(group, saved, strict=True):
                variable.assign(value)
        elif saved and name == "seeds":
            warnings.warn(
                f"The model {model.name!r} has other random layers than the "
                f"one saved in {str(path)!r}: their seeds stay as they are.",
                RuntimeWarning,
                stacklevel=3,
            )
