"""Changes the precision of layers of a model that trains, all or none.

`fit` looks up the model's `train_function` at each step, and a changed model
has a new one.  So a change may be made wherever Keras calls back: the next
step is traced, and compiled, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras

from tfmp import policies
from tfmp._keras import global_notes
from tfmp._switching.precisions import same
from tfmp._switching.structure import Structure
from tfmp.conversion import training_update
from tfmp.conversion.converted_layers import apply
from tfmp.conversion.records import flatten
from tfmp.layers.layer_recipes import has_idle_state
from tfmp.optimizers import LossScaleOptimizer


class Wanted(NamedTuple):
    """What a layer is to become.

    Attributes:
        policy: no map.
        reason: in words, for `tfmp.ConversionReport`.
    """

    policy: keras.DTypePolicy
    reason: str


def present(model: keras.Model) -> dict[str, keras.DTypePolicy]:
    """Returns the policy of every layer, by its path."""
    return {
        path: policies.of_layer(layer) for path, layer in flatten(model).items()
    }


def news(model: keras.Model, wanted: Mapping[str, Wanted]) -> dict[str, Wanted]:
    """Returns what a model does not have yet of what is wanted."""
    now = present(model)
    return {
        path: each
        for path, each in wanted.items()
        if path in now and not same(now[path], each.policy)
    }


def switch(model: keras.Model, wanted: Mapping[str, Wanted]) -> None:
    """Gives layers other policies; after an error, none has another.

    All variables are kept, bit for bit, and of a layer that stays in FP8 the
    window too.  One that becomes FP8 starts with a fresh scale, or with the
    one it had when it left; of its gradients with a fresh one if the loss
    scale may have changed meanwhile.  The step is traced once more, whatever
    the number of layers.

    Args:
        model: built.
        wanted: by path, as of `tfmp.conversion.records.flatten`.
    """
    layers = flatten(model)
    with all_or_nothing(model), model.distribute_strategy.scope():
        global_notes.conversion_known()
        for path, (policy, reason) in wanted.items():
            was_idle = has_idle_state(layers[path])
            apply(layers[path], policy, reason)
            if was_idle and not has_idle_state(layers[path]):
                _forget_gradients(model, layers[path])
        training_update.follow(model)


@contextlib.contextmanager
def all_or_nothing(model: keras.Model) -> Iterator[None]:
    """Gives a model back the precision it had if the block fails."""
    before = Structure(model)
    try:
        yield
    except BaseException:
        before.restore()
        raise


def _forget_gradients(model: keras.Model, layer: keras.Layer) -> None:
    """Their amax is that of the scaled loss, and its scale went on."""
    optimizer = model.optimizer
    if isinstance(optimizer, LossScaleOptimizer) and optimizer.rule.dynamic:
        *others, _ = layer.float8.amax.numpy()
        layer.float8.assume([*others, 0.0])
