"""The data of the `fit` that runs, and where in them it begins.

Keras gives its iterator to nobody, and starts an epoch that was cut off over.
To go on within one, the batches before have to be drawn, and an epoch that is
skipped has to be begun, as shuffling goes by it.  `tests/test_backup.py`
tells: `test_goes_on_bit_for_bit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfmp._keras import frames


def start_at(model: keras.Model, epoch: int | None) -> None:
    """Says where the `fit` that begins starts; None: where it was told."""
    model._initial_epoch = epoch


def data_of_fit() -> Any:
    """Returns the data of the `fit` that runs, None if there is no such."""
    return frames.local("epoch_iterator")


def build_for(model: keras.Model, data: Any) -> None:
    """Builds model, metrics and optimizer, as far as they are not yet.

    Args:
        model: compiled.
        data: as of `data_of_fit`.
    """
    model._symbolic_build(data_batch=data._distributed_dataset.element_spec)


def skip_data(data: Any, epochs: int, batches: int) -> None:
    """Brings the data of a `fit` to where it is after so many batches.

    Epochs that start the data anew are begun and not drawn from, which is
    what shuffling with a seed goes by; of data that go on from epoch to
    epoch, by `steps_per_epoch`, every batch is drawn.

    Args:
        data: as of `data_of_fit`.
        epochs: to skip.
        batches: to skip of the epoch after these.
    """
    enumerate_epoch = data._enumerate_iterator
    for _ in range(epochs):
        for _, _, iterator in enumerate_epoch():
            if data.steps_per_epoch:
                _draw(data, iterator)
            elif data.num_batches is None:
                data.data_adapter.on_epoch_end()
                break

    def rest() -> Iterator[tuple[int, int, Any]]:
        """Yields what is left of the epoch, and is Keras' own afterwards."""
        del data._enumerate_iterator
        for begin, end, iterator in enumerate_epoch():
            if begin < batches:
                _draw(data, iterator)
            else:
                yield begin, end, iterator

    data._enumerate_iterator = rest


def _draw(data: Any, iterator: Any) -> None:
    for _ in range(data.steps_per_execution):
        next(iterator, None)
