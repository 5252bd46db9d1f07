"""`initialization`: which tensors of a new model a format does not hold."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp import policies, recipes
from tfmp._core import scaling, statistics
from tfmp._keras import call_context, training_pass
from tfmp._support import checks
from tfmp.analysis import batches as data_of
from tfmp.analysis import lowering, objectives, subjects
from tfmp.analysis.batches import Batch
from tfmp.analysis.initial_ranges import (
    Initialization,
    InitialRange,
    static,
)
from tfmp.analysis.running import at_reference, unchanged, weights
from tfmp.analysis.sensitivities import check_model
from tfmp.analysis.subjects import Subject
from tfmp.conversion.sizes import Sizes


def initialization(
    model: keras.Model,
    data: Any,
    loss: Any = None,
    recipe: Any = "static",
    samples: int = 64,
) -> Initialization:
    """Finds the tensors that begin outside of a format's range.

    One training pass in float32 for each batch, without an update.  Of each
    layer with a kernel, its inputs, its kernel and the gradient of its result
    are held against the formats and scales of the recipe.  The model is
    afterwards as before.

    Args:
        model: any Keras model, built.
        data: arrays `(x, y)` or `(x, y, sample_weight)`, or an iterable of
            batches of these, such as a `tf.data.Dataset`.
        loss: a loss of Keras, its name, or a function of labels and
            predictions; by default what the model is compiled with.
        recipe: a `tfmp.recipes.StaticScaling`, or the name of one.
        samples: how many to use, at most; batches stay whole.

    Returns:
        An `Initialization`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2303.11257, section 2 (why tensors that begin with a
    standard deviation of 1 stay in the range).

    >>> import numpy as np
    >>> tiny = keras.initializers.RandomNormal(stddev=2.0**-13)
    >>> head = keras.layers.Dense(4, kernel_initializer=tiny, name="head")
    >>> model = keras.Sequential([keras.Input([16]), head], name="net")
    >>> x, y = np.ones([8, 16], "float32"), np.ones([8, 4], "float32")
    >>> [row.role for row in initialization(model, (x, y), "mse").outside]
    ['kernel']
    """
    check_model(model)
    recipe = static(recipes.get(recipe))
    checks.integer("samples", samples, 1)
    objective = _objective(model, loss)
    found = [each for each in subjects.find(model, Sizes()) if each.has_roles]
    taken = _Taken(recipe)
    with at_reference(model, policies.get("float32")):
        for batch in data_of.read(data, samples):
            _look(model, batch, objective, found, taken)
    rows = tuple(taken.rows(found))
    return Initialization(recipe, rows, tuple(_notes(found, rows)))


class _Taken:
    """Statistics of each layer's tensors, merged over calls and batches."""

    def __init__(self, recipe: recipes.StaticScaling) -> None:
        self._recipe = recipe
        self._vectors: dict[tuple[str, str], tf.Tensor] = {}

    def take(self, path: str, role: str, x: Any) -> None:
        """Takes in a tensor."""
        x = tf.cast(tf.convert_to_tensor(x), tf.float32)
        scale = tf.constant(self._recipe.static_scale(role))
        target, amax = self._recipe.format(role), scaling.amax(x)
        vector = statistics.measure(x, scale, target, amax)
        before = self._vectors.get((path, role))
        merged = vector if before is None else statistics.merge(before, vector)
        self._vectors[path, role] = merged

    def rows(self, found: list[Subject]) -> Iterator[InitialRange]:
        """Yields what is known of each layer and role."""
        for path in (each.path for each in found):
            for role in recipes.ROLES:
                vector = self._vectors.get((path, role))
                if vector is not None:
                    yield self._row(path, role, vector.numpy())

    def _row(self, path: str, role: str, vector: np.ndarray) -> InitialRange:
        target = self._recipe.format(role)
        shares = statistics.describe(vector, target)
        sums = dict(zip(statistics.SUMS, vector.tolist(), strict=False))
        rms = math.sqrt(sums["signal"] / sums["values"])
        small, large = shares["underflow_share"], shares["saturation_share"]
        return InitialRange(
            path,
            role,
            target.name,
            rms / self._recipe.static_scale(role),
            0.0 if math.isnan(small) else small,  # of zeros alone
            large,
        )


def _look(
    model: keras.Model,
    batch: Batch,
    objective: Callable[[Batch, Any], Any],
    found: list[Subject],
    taken: _Taken,
) -> None:
    """Runs a training pass, and takes in what layers multiply."""
    layers = {each.path: each.layer for each in found}
    kernels = {each.path: each.kernel for each in found}

    def wrap(path: str, layer: keras.Layer, call: Any) -> Callable[..., Any]:
        @functools.wraps(call)
        def looked(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Calls, and has the gradient of the product looked at."""
            if not tf.executing_eagerly():
                return call(inputs, *args, **kwargs)
            taken.take(path, "inputs", inputs)
            with call_context.uncast():
                taken.take(path, "kernel", kernels[path])

            def look(dy: tf.Tensor) -> tf.Tensor:
                taken.take(path, "grads", dy)
                return dy

            with lowering.before_activation(
                layer, lambda y: lowering.with_gradient(y, look)
            ):
                return call(inputs, *args, **kwargs)

        return looked

    with (
        unchanged(model),
        training_pass.around_calls(layers, wrap),
        tf.GradientTape() as tape,
    ):
        outputs = training_pass.train_call(model, batch.x)
        total = objective(batch, outputs)
    tape.gradient(total, weights(model))


def _objective(
    model: keras.Model, loss: Any
) -> Callable[[Batch, Any], tf.Tensor]:
    """Returns the loss as `fit` has it, with the factors of its gradient."""
    if loss is not None:
        given = objectives.callable_of(loss)
        if isinstance(given, keras.losses.Loss):
            return lambda batch, outputs: given(
                batch.y, outputs, sample_weight=batch.sample_weight
            )
        return lambda batch, outputs: tf.reduce_mean(given(batch.y, outputs))
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"`loss` must be {objectives.SAID}; the model is not compiled. "
            "Received: None"
        )
    return lambda batch, outputs: training_pass.train_loss(
        model, batch.x, batch.y, outputs, batch.sample_weight
    )


def _notes(
    found: list[Subject], rows: tuple[InitialRange, ...]
) -> Iterator[str]:
    seen = {row.layer for row in rows if row.role == "grads"}
    lacking = [each.path for each in found if each.path not in seen]
    if lacking:
        yield (
            "no gradient came through, or it ran within a graph: "
            f"{', '.join(lacking)}"
        )
