"""The loss that an analysis looks at: of a batch, and of each sample."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfmp._keras import compile_arguments, training_pass
from tfmp.analysis.batches import SAID as DATA
from tfmp.analysis.batches import Batch

SAID = (
    "a loss of Keras, its name, or a function of labels and predictions; None "
    "takes the loss that the model is compiled with"
)


@dataclasses.dataclass(frozen=True)
class Losses:
    """The loss of one batch.

    Attributes:
        mean: scalar tensor.
        samples: of each sample, or None if only the mean is known.
        terms: numbers in the mean that a sample gives, such as its tokens.
    """

    mean: tf.Tensor
    samples: tf.Tensor | None
    terms: int


Objective = Callable[[Batch, Any], Losses]


def read(model: keras.Model, loss: Any) -> Objective:
    """Returns the loss to look at.

    Raises:
        TypeError: if `loss` is no loss.
        ValueError: if its name is unknown, or there is none.
    """
    if loss is None:
        loss = _compiled_loss(model)
    return _whole(model) if loss is None else _each(callable_of(loss))


def callable_of(loss: Any) -> Any:
    """Returns the function, or the object, that a loss is called as.

    Raises:
        TypeError: if `loss` is no loss.
        ValueError: if its name is unknown.
    """
    try:
        found = keras.losses.get(loss)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`loss` must be {SAID} ({error}). Received: {loss!r}"
        ) from error
    if not callable(found):
        raise TypeError(f"`loss` must be {SAID}. Received: {loss!r}")
    return found


def _compiled_loss(model: keras.Model) -> Any:
    """Returns the one loss of a compiled model, None if it is not that."""
    given = (compile_arguments.given(model) or {}).get("loss")
    own = type(model).compute_loss is not keras.Model.compute_loss
    return (
        None
        if own or not (callable(given) or isinstance(given, str))
        else given
    )


def _whole(model: keras.Model) -> Objective:
    """Of several outputs, or a loss of the model's own: the mean alone."""
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"`loss` must be {SAID}; the model is not compiled. Received: None"
        )

    def losses(batch: Batch, outputs: Any) -> Losses:
        """Returns the mean loss, and what is known of each sample."""
        mean = training_pass.train_loss(model, *batch[:2], outputs, batch[2])
        if mean is None:
            raise ValueError(
                f"`loss` must be {SAID}; this model has none for the data. "
                "Received: None"
            )
        return Losses(mean, None, 1)

    return losses


def _each(loss: Any) -> Objective:
    def losses(batch: Batch, outputs: Any) -> Losses:
        """Returns the mean loss, and what is known of each sample."""
        values = _with_labels(loss, batch, outputs)
        if not values.shape.rank or values.shape[0] != batch.size:
            return Losses(tf.reduce_mean(values), None, 1)
        samples = tf.reshape(values, [batch.size, -1])
        each = tf.reduce_mean(samples, axis=1)
        return Losses(tf.reduce_mean(each), each, int(samples.shape[1]))

    return losses


def _with_labels(loss: Any, batch: Batch, outputs: Any) -> tf.Tensor:
    """Returns the values of a loss; a loss that needs no labels gets None."""
    try:
        return _values(loss, batch, outputs)
    except (AttributeError, TypeError, ValueError) as error:
        if batch.y is not None:
            raise
        raise ValueError(
            f"`data` must have labels, or `loss` must need none ({error}): "
            f"{DATA}. Received: inputs alone"
        ) from error


def _values(loss: Any, batch: Batch, outputs: Any) -> tf.Tensor:
    if isinstance(loss, keras.losses.Loss):
        with _unreduced(loss):
            return loss(batch.y, outputs, sample_weight=batch.sample_weight)
    wide = outputs.dtype == tf.float64
    outputs = outputs if wide else tf.cast(outputs, tf.float32)
    values = tf.convert_to_tensor(loss(batch.y, outputs))
    if batch.sample_weight is None or not values.shape.rank:
        return values
    weight = tf.cast(batch.sample_weight, values.dtype)
    missing = values.shape.rank - weight.shape.rank
    return values * tf.reshape(weight, [*weight.shape, *[1] * missing])


@contextlib.contextmanager
def _unreduced(loss: keras.losses.Loss) -> Iterator[None]:
    before = loss.reduction
    loss.reduction = "none"
    try:
        yield
    finally:
        loss.reduction = before
