"""Reads the loss scale and all FP8 state of a model at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import recipes
from tfmp._core import observations, scaling
from tfmp._monitoring.operators import layer_names
from tfmp.conversion.records import flatten
from tfmp.layers.float8_state import Float8State, all_states

OPTIMIZER_STATE = {
    "loss_scale": "dynamic_scale",
    "skipped_steps": "skipped_steps",
    "overflow_count": "overflow_count",
}


class StateReader:
    """Reads the precision state of a model in one transfer to the host.

    What is read has a name each:

        loss_scale              if the optimizer has one
        skipped_steps           if the optimizer counts them
        overflow_count          likewise: those with a bad gradient
        <layer path>/<role>/amax    for each role that is quantized
        <layer path>/<role>/scale   for each of these that is delayed

    The scale of a role is that of the next training step,

        scale = 2**(floor(log2(max / amax)) - margin)

    with the prior where `amax` is not observed yet.  A role under current
    scaling has none before its tensor is seen, nor has any of a frozen layer.

    Args:
        model: built, as is its optimizer if it has one.
    """

    def __init__(self, model: keras.Model) -> None:
        optimizer = getattr(model, "optimizer", None)
        state = {
            name: getattr(optimizer, attribute, None)
            for name, attribute in OPTIMIZER_STATE.items()
        }
        self._state = {k: v for k, v in state.items() if v is not None}
        states = all_states(model)
        frozen = {
            id(layer.float8)
            for layer in flatten(model).values()
            if getattr(layer, "float8", None) and not layer.trainable
        }
        self._groups = _grouped(states, frozen, layer_names(model))
        names = [name for group in self._groups for name in group.names()]
        self.names = (*self._state, *names)

    def named(self, values: np.ndarray) -> dict[str, float]:
        """Returns the values of `reading` by name."""
        return dict(zip(self.names, values.tolist(), strict=True))

    def reading(self) -> tf.Tensor:
        """Gathers on the device, copies once, and computes on the host.

        Returns:
            float64 vector, so that every float32 and every count fits.
        """
        if not self.names:
            return tf.zeros([0], tf.float64)
        state = [_float64(v)[tf.newaxis] for v in self._state.values()]
        for group in self._groups:
            state.append(_float64(tf.reshape(group.amax(), [-1])))
        device_values = tf.concat(state, axis=0)
        with tf.device("CPU:0"):
            sizes = [
                len(recipes.ROLES) * len(group.layers) for group in self._groups
            ]
            parts = tf.split(device_values, [len(self._state), *sizes])
            values = [
                _float64(group.values(tf.cast(part, tf.float32)))
                for group, part in zip(self._groups, parts[1:], strict=True)
            ]
            return tf.concat([parts[0], *values], axis=0)


def _float64(x: Any) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(x), tf.float64)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Layers that are read alike.

    Attributes:
        recipe: of all of them.
        trainable: whether they are observed, and so scale by `amax`.
        layers: their states by the layer's path.
    """

    recipe: recipes.Float8Recipe
    trainable: bool
    layers: dict[str, Float8State]

    def columns(self) -> list[tuple[str, str]]:
        """Returns the (role, "amax" or "scale") read of each layer."""
        found = []
        for role in filter(self.recipe.quantizes, recipes.ROLES):
            found.append((role, "amax"))
            if self.trainable and self.recipe.is_delayed(role):
                found.append((role, "scale"))
        return found

    def names(self) -> list[str]:
        """Returns the name of each value, layer by layer."""
        return [
            f"{path}/{role}/{what}"
            for path in self.layers
            for role, what in self.columns()
        ]

    def amax(self) -> tf.Tensor:
        """Returns what the layers' next passes assume, `[layers, 3]`."""
        states = list(self.layers.values())
        rows = tf.stack([tf.convert_to_tensor(s.variable) for s in states])
        return observations.assumed(rows, states[0].fade)

    def values(self, amax: tf.Tensor) -> tf.Tensor:
        """Returns the values in the order of `names()`, float32.

        Args:
            amax: of all layers, float32 of shape `[3 * len(layers)]`.
        """
        amax = tf.reshape(amax, [-1, len(recipes.ROLES)])
        columns = [self._column(amax, *column) for column in self.columns()]
        return tf.reshape(tf.stack(columns, axis=1), [-1])

    def _column(self, amax: tf.Tensor, role: str, what: str) -> tf.Tensor:
        if what == "amax":
            return amax[:, recipes.ROLES.index(role)]
        target = self.recipe.format(role)
        assumed = scaling.assumed_amax(amax, role, target)
        return scaling.compute_scale(assumed, target, self.recipe.margin)


def _grouped(
    states: Iterable[Float8State],
    frozen: Container[int],
    names: dict[int, str],
) -> list[_Group]:
    groups: dict[tuple[recipes.Float8Recipe, bool], _Group] = {}
    for state in states:
        key = state.recipe, id(state) not in frozen
        group = groups.setdefault(key, _Group(*key, {}))
        group.layers[names[id(state)]] = state
    return [group for group in groups.values() if group.columns()]
