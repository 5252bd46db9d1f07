"""`find_nonfinite`: one training step, looked at tensor by tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._keras import training_pass
from tfmp.debug import model_state
from tfmp.debug.findings import DATA, NonFinite, Search, TooLarge
from tfmp.debug.magnitudes import too_large
from tfmp.debug.recording import Recorder, look_at_rest, named
from tfmp.layers.float8_state import all_states
from tfmp.optimizers import LossScaleOptimizer

NAMES = ("x", "y", "sample_weight")


def find_nonfinite(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None
) -> NonFinite | TooLarge | None:
    """Returns the first tensor of a training step that is not finite.

    One step is run eagerly, forwards and backwards, and nothing of it is
    applied: weights, moving averages, seeds, metrics and the optimizer are
    afterwards what they were, bit for bit; only random numbers of TensorFlow's
    own, `tf.random`, go on.  It looks, in this order, at

    1. the data: inputs, labels, sample weights;
    2. layer by layer, as they run: input, weights, activation, a nested layer
       before the one around it; moving averages and the like only where an
       activation is not finite;
    3. the loss, alone and times the loss scale of the optimizer;
    4. gradients of the scaled loss, backwards: of each activation, then of
       the layer's weights and of its input;
    5. what products in FP8 observed, which saturate;
    6. what is left: weights that no layer used, moving averages.

    All infinities and NaN count, also those that are meant, such as a missing
    value in the data or `-inf` in a mask.  The loss scale is the one in force
    now; where a value is not finite because of it alone, that is said.  If
    all is finite, and the optimizer would skip the step all the same, as its
    gradients are too large, the largest one is returned.

    What runs in a loop or function of TensorFlow has no values to look at;
    the layer around it speaks for it.  The step is that of Keras, `model(x)`
    and `model.compute_loss`, whatever a `train_step` of one's own does;
    without compiled loss, or without labels for it, there is a forward pass
    only.  All activations and their gradients are in memory at once.

    Args:
        model: built.
        x: a batch of inputs as the model takes them: an array or tensor, or a
            list or dictionary of some.
        y: the labels, likewise; None if there are none.
        sample_weight: the weights of the samples in the loss, or None.

    Returns:
        What was found, which prints as a sentence; None if nothing was.

    Raises:
        TypeError: if `model` is not a keras.Model, or the data has something
            in it that is no array.
        ValueError: if the model is not built, or `x` is None; whatever the
            model raises, unless something was found before.

    In a custom loop, after steps that were skipped, ask for the batch:

        for batch in dataset:
            step(*batch)
            if optimizer.skipped_in_a_row >= 50:
                raise tfmp.debug.NonFiniteError(
                    str(tfmp.debug.find_nonfinite(model, *batch)))

    >>> layer = keras.layers.Dense(2, dtype="mixed_float16", name="head")
    >>> model = keras.Sequential([keras.Input([3]), layer], name="net")
    >>> model.set_weights([np.ones([3, 2]), np.zeros([2])])
    >>> print(find_nonfinite(model, 3e4 * np.ones([1, 3])))
    first non-finite value: activation of layer 'net/head' (Dense), float16
    [1, 2]: 0 NaN, 2 infinite, first at [0, 0]; largest magnitude just before:
    3e+04
    >>> find_nonfinite(model, np.ones([1, 3])) is None
    True
    """
    _check(model, x)
    optimizer = getattr(model, "optimizer", None)
    scale = getattr(optimizer, "scale_loss", lambda loss: loss)
    return diagnose(model, [(x, y, sample_weight)], scale)


def diagnose(
    model: keras.Model,
    batches: Iterable[Any],
    scale: Callable[[Any], Any],
    replicas: int = 1,
) -> NonFinite | TooLarge | None:
    """Does as `find_nonfinite`, with a loss scale of the caller's.

    Args:
        model: built.
        batches: of a step, one for each replica: inputs, labels and sample
            weights, or the first of these.
        scale: maps the loss to the scaled loss.
        replicas: by how many Keras divides the loss.
    """
    for batch in batches:
        search = Search()
        _look_at_step(model, batch, lambda x: scale(x) / replicas, search)
        if search.finding is not None:
            loss_scale = float(keras.ops.convert_to_numpy(scale(1.0)))
            return _with_scale(model, batch, search.finding, loss_scale)
    rest = Search()
    look_at_rest(model, rest)
    return rest.finding


def _with_scale(
    model: keras.Model,
    batch: Any,
    found: NonFinite | TooLarge,
    loss_scale: float,
) -> NonFinite | TooLarge:
    """Adds to a finding what the loss scale has to do with it."""
    scaled = found.tensor.startswith(("scaled loss", "gradient"))
    if loss_scale == 1.0 or isinstance(found, TooLarge) or not scaled:
        return found
    without = Search()
    _look_at_step(model, batch, lambda loss: loss, without)
    return dataclasses.replace(
        found,
        loss_scale=loss_scale,
        by_scale_alone=not isinstance(without.finding, NonFinite),
    )


def _look_at_step(
    model: keras.Model,
    batch: Any,
    scale: Callable[[Any], Any],
    search: Search,
) -> None:
    given = keras.utils.unpack_x_y_sample_weight(batch)
    parts = tuple(map(_tensors, NAMES, given))
    for what, part in zip(DATA, parts, strict=True):
        search.look(what, named(part))
    if search.finding is not None:
        return
    try:
        with model_state.kept(model):
            _pass(model, Recorder(model, search), search, parts, scale)
    except Exception:
        # A model that checks its numbers may raise on those just found.
        if search.finding is None:
            raise


def _pass(
    model: keras.Model,
    recorder: Recorder,
    search: Search,
    batch: tuple[Any, Any, Any],
    scale: Callable[[Any], Any],
) -> None:
    x, y, sample_weight = batch
    for each in all_states(model):
        each.assume(each.amax)  # and forget what other passes have seen
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        # What a step does not differentiate must not be looked at here.
        tape.watch([v.value for v in model.trainable_variables])
        with recorder.recording():
            outputs = training_pass.train_call(model, x)
        loss = training_pass.train_loss(model, x, y, outputs, sample_weight)
        if loss is None:
            return
        scaled = scale(loss)
    search.look("loss", [("", loss)])
    search.look("scaled loss", [("", scaled)])
    if search.finding is None:
        recorder.look_at_gradients(tape, scaled)
    optimizer = getattr(model, "optimizer", None)
    if search.finding is None and isinstance(optimizer, LossScaleOptimizer):
        factor = float(scale(tf.ones([])))
        search.finding = too_large(recorder.weight_gradients(), factor)


def _tensors(name: str, given: Any) -> Any:
    try:
        return keras.tree.map_structure(_tensor, given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array or tensor, or a list or dictionary "
            f"of some. Received: {given!r:.200}"
        ) from error


def _tensor(leaf: Any) -> Any:
    """Returns a tensor; arrays take the dtype that `fit` gives them."""
    if isinstance(leaf, tf.experimental.Optional):
        return None  # as `fit` takes a label that a dataset leaves out
    if leaf is None or tf.is_tensor(leaf):
        return leaf
    if isinstance(leaf, int | float | complex | str | bytes):
        raise TypeError("a list of numbers is not an array")
    array = np.asarray(leaf)
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(keras.config.floatx())
    return tf.convert_to_tensor(array)


def _check(model: Any, x: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            "`model` must be built: call it, or `model.build(shape)`. "
            f"Received: {model.name!r}, which is not"
        )
    if x is None:
        raise ValueError("`x` must be a batch of inputs. Received: None")
