"""Keeps a model as it is, whatever a pass through it changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from tfmp._keras import global_notes, training_pass
from tfmp._keras.kept_values import KeptValues
from tfmp.conversion.records import flatten


@contextlib.contextmanager
def kept(model: keras.Model) -> Iterator[None]:
    """Gives a model its state back, bit for bit, also after an error.

    That is all its variables, those of its metrics, the state of Keras'
    global random numbers, and the losses that its layers added.
    """
    layers = flatten(model).values()
    with training_pass.losses_kept(layers), global_notes.seed_kept() as seed:
        every = [*_variables(model), *([seed] if seed is not None else [])]
        values = KeptValues(model, every)
        try:
            yield
        finally:
            values.restore()


def _variables(model: keras.Model) -> list[keras.Variable]:
    every = [
        *model.variables,
        *model.metrics_variables,
        *(v for metric in model.metrics for v in metric.variables),
    ]
    return list({id(v): v for v in every}.values())
