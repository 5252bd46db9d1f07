"""All that a training goes on from, and what keeps it whole."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from tfmp._keras import layer_kinds
from tfmp._keras.kept_values import KeptValues
from tfmp._support import checks
from tfmp.layers.float8_state import all_states


def variables(model: keras.Model) -> list[keras.Variable]:
    """Returns all that a training goes on from: every variable, once.

        weights and FP8 state; seeds of dropout and other random layers;
        the optimizer's, those of the optimizer inside it, and of metrics

    Keras' own files, and `tf.train.Checkpoint(model=model)`, leave out seeds,
    and the latter moving averages too.  For one that has all of it, and that
    a resumed run goes on from bit for bit:

        tf.train.Checkpoint(state=[v.value for v in variables(model)])

    Args:
        model: a model; what is not built yet has no variables.

    >>> layer = keras.layers.Dropout(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input([4]), layer])
    >>> [variable.name for variable in variables(model)]
    ['seed_generator_state']
    """
    checks.instance("model", model, keras.Model, "a Keras model")
    optimizer = getattr(model, "optimizer", None)
    found = [
        *model.variables,
        *(optimizer.variables if optimizer is not None else []),
        *model.metrics_variables,
    ]
    return list({id(variable): variable for variable in found}.values())


@contextlib.contextmanager
def all_or_nothing(model: keras.Model) -> Iterator[None]:
    """Puts a model's variables back, bit for bit, if the block fails.

    For any load: `model.load_weights`, or

        with all_or_nothing(model):
            tf.train.Checkpoint(...).restore(path).assert_consumed()

    It keeps a copy of `variables(model)` in the memory of the host meanwhile.
    Variables that are made inside stay.

    Args:
        model: a Keras model.

    >>> layer = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input([1]), layer])
    >>> with contextlib.suppress(OSError), all_or_nothing(model):
    ...     _ = layer.kernel.assign([[2.0]])
    ...     raise OSError
    >>> float(layer.kernel[0, 0])
    1.0
    """
    before = KeptValues(model, variables(model))
    try:
        yield
    except BaseException:
        before.restore()
        raise


def unsaved(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Returns the variables that Keras' weights files do not hold."""
    saved = {id(variable) for variable in model.weights}
    saved |= {id(state.variable) for state in all_states(model, idle=True)}
    seeds = [v for v in model.variables if id(v) not in saved]
    return {"seeds": seeds, "metrics": list(model.metrics_variables)}


def keep_seeds(model: keras.Model) -> None:
    """Has Keras save and load the seeds of random layers with the weights.

    Keras' files lack them, so that a run that goes on from one draws other
    numbers for dropout.  After this call the files of `model.save_weights`,
    `model.save`, `ModelCheckpoint` and Keras' `BackupAndRestore` hold them,
    and `model.load_weights` loads them; models without it read such a file
    too.  `keras.models.load_model` makes a new model: call this on it, then
    `model.load_weights` with the same file.

    `save_weights` and `BackupAndRestore` of tfmp do without.

    Args:
        model: a built model.  To call it twice changes nothing.

    >>> layer = keras.layers.Dropout(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input([4]), layer])
    >>> keep_seeds(model)
    """
    checks.instance("model", model, keras.Model, "a Keras model")
    model.tfmp_seeds = _Seeds(model)


class _Seeds(layer_kinds.KerasSaveable):
    """Seeds, in an object of its own, which Keras finds on the model."""

    def __init__(self, model: keras.Model) -> None:
        # By a strong reference, Keras would load the model within the model.
        self._model = weakref.ref(model)

    def _obj_type(self) -> str:
        return "Loss"  # Keras asks what to skip: little

    def _seeds(self) -> list[keras.Variable]:
        model = self._model()
        return [] if model is None else unsaved(model)["seeds"]

    def save_own_variables(self, store: Any) -> None:
        """Saves one array a random layer."""
        for i, variable in enumerate(self._seeds()):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Loads them; a file without any leaves them as they are."""
        seeds = self._seeds()
        if len(store.keys()) not in (0, len(seeds)):
            raise ValueError(
                f"A file of {len(seeds)} random layers was expected. "
                f"Received: one of {len(store.keys())}"
            )
        for i, variable in enumerate(seeds[: len(store.keys())]):
            variable.assign(store[str(i)])
