"""Training passes that change nothing, and see the same random numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp._keras import call_context, training_pass
from tfmp.analysis import objectives
from tfmp.analysis.batches import Batch
from tfmp.analysis.lowering import floating, under
from tfmp.debug import model_state


@dataclasses.dataclass(frozen=True)
class Pass:
    """What a training pass gave.

    Attributes:
        returned: by the model.
        outputs: the floating tensors of that.
        losses: of the batch.
        gradients: of the mean loss by each trained variable, or None.
    """

    returned: Any
    outputs: list[tf.Tensor]
    losses: objectives.Losses
    gradients: list[Any]


class Runner:
    """Runs passes of a model on batches.

    Args:
        model: built.
        loss: as `objectives.read` takes it.
    """

    def __init__(self, model: keras.Model, loss: Any) -> None:
        self._model = model
        self._objective = objectives.read(model, loss)
        self.variables = weights(model)
        self.terms = 1  # of a sample in the loss, as of the newest pass
        self._bends = self._squares = 0.0

    def run(self, batch: Batch) -> Pass:
        """Returns what a pass gives, forwards and backwards."""
        with (
            unchanged(self._model),
            tf.GradientTape(watch_accessed_variables=False) as tape,
        ):
            tape.watch([v.value for v in self.variables])
            outputs = training_pass.train_call(self._model, batch.x)
            losses = self._objective(batch, outputs)
            self.terms = losses.terms
        # Not within: what a layer remembers has to be there for this, too.
        found = tape.gradient(losses.mean, self.variables)
        return Pass(outputs, first_tensors([outputs]), losses, found)

    def look_at_curvature(self, batch: Batch, exact: Pass) -> None:
        """Takes in how the loss bends over the outputs, for `scale`.

        The trace of the second derivative is that of one random direction,
        `v @ H @ v` with entries of +1 and -1.
        """
        returned = keras.tree.map_structure(tf.stop_gradient, exact.returned)
        outputs = first_tensors([returned])
        with tf.GradientTape() as outer:
            outer.watch(outputs)
            with tf.GradientTape() as tape:
                tape.watch(outputs)
                losses = self._objective(batch, returned)
                total = losses.mean * batch.size * losses.terms
            slopes = tape.gradient(total, outputs)
            signs = [_signs(y, seed) for seed, y in enumerate(outputs)]
            along = [_dot(g, v) for g, v in zip(slopes, signs, strict=True)]
            slope = tf.add_n(along)
        bends = outer.gradient(slope, outputs)
        pairs = zip(bends, signs, strict=True)
        self._bends += sum(float(_dot(b, v)) for b, v in pairs)
        self._squares += sum(float(_dot(g, g)) for g in slopes)

    def scale(self, loss: float) -> float:
        """Returns how many times the loss is a negative log-likelihood.

        For a log-likelihood the mean square of the slope is the mean second
        derivative; for the loss it is this many times as much.  A loss that
        does not bend, like the absolute error, is taken for Laplace's.

        Args:
            loss: the mean.
        """
        found = self._squares / self._bends if self._bends > 0 else abs(loss)
        return found if math.isfinite(found) and found > 0 else 1.0


@contextlib.contextmanager
def at_reference(
    model: keras.Model, policy: keras.DTypePolicy
) -> Iterator[None]:
    """Has a model compute in the reference, and be as before afterwards."""
    with model_state.kept(model), under(floating(model), policy):
        yield


@contextlib.contextmanager
def unchanged(layer: keras.Layer) -> Iterator[None]:
    """Gives back what a call changes: averages, and random numbers' state."""
    variables = layer.non_trainable_variables
    with call_context.uncast():
        before = [tf.identity(v.value) for v in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def weights(layer: keras.Layer) -> list[keras.Variable]:
    """Returns what a layer trains."""
    return list(layer.trainable_variables)


def _signs(like: tf.Tensor, seed: int) -> tf.Tensor:
    drawn = tf.random.stateless_uniform(tf.shape(like), [seed, 1])
    return tf.cast(tf.sign(drawn - 0.5), like.dtype)


def _dot(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor:
    if a is None or b is None:
        return tf.zeros([], tf.float64)
    product = tf.cast(a, tf.float64) * tf.cast(b, tf.float64)
    return tf.reduce_sum(product)


def first_tensors(structures: Sequence[Any]) -> list[tf.Tensor]:
    """Returns the floating tensors in structures of arguments."""
    return [
        leaf
        for leaf in keras.tree.flatten(structures)
        if isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating
    ]
