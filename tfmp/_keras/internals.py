"""What Keras keeps to itself, and a library that converts models needs.

Whatever private part of Keras tfmp reaches from outside is in this module, in
`training_pass`, in `layer_calls` (making a layer and calling it), in
`symbolic_calls` or in `weights_saving`; a subclass of tfmp uses those of its
own base by itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state
from keras.src.export.export_utils import (
    get_input_signature,
    make_tf_tensor_spec,
)
from keras.src.models.functional import Functional
from keras.src.saving.keras_saveable import KerasSaveable as KerasSaveable
from keras.src.utils import tracking

KNOWN = "tfmp_conversion_known"


def uncast() -> Any:
    """Returns a scope in which variables are read in their own dtype."""
    return AutocastScope(None)


def training_of_call() -> bool | None:
    """Returns the `training` of the layer call that is running, if any."""
    context = global_state.get_global_attribute("current_call_ctx")
    return None if context is None else context.get_value("training")


@contextlib.contextmanager
def unlocked(layer: keras.Layer) -> Iterator[None]:
    """Lets a built layer gain and lose variables and sublayers."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def remove_child(layer: keras.Layer, name: str) -> None:
    """Deletes an attribute that holds a sublayer."""
    with unlocked(layer):
        layer._tracker.untrack(getattr(layer, name))
        delattr(layer, name)


def children(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the sublayers in the order in which they were set."""
    return list(layer._layers)


def own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer itself, without its sublayers'."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def statistics(layer: keras.Layer) -> list[keras.Variable]:
    """Returns those of its own variables that no gradient ever changes."""
    return list(layer._non_trainable_variables)


def calls(layer: keras.Layer) -> int:
    """Returns how often a functional model calls a layer; else 1."""
    return max(1, len(layer._inbound_nodes))


def reversed_calls(layer: keras.Layer) -> int:
    """Returns how often a functional model calls with `reverse=True`."""
    calls = [node.arguments.kwargs for node in layer._inbound_nodes]
    return sum(bool(arguments.get("reverse")) for arguments in calls)


def is_preprocessing(layer: keras.Layer) -> bool:
    """Whether a layer prepares data, which 16 bits would spoil."""
    return is_preprocessing_class(type(layer))


def is_preprocessing_class(cls: type) -> bool:
    """Whether layers of a class prepare data."""
    return any(
        base.__module__.startswith("keras.src.layers.preprocessing")
        or base.__name__ == "PreprocessingLayer"  # of keras-hub
        for base in cls.__mro__
    )


def is_container(layer: keras.Layer) -> bool:
    """Whether a layer saves its sublayers one by one, as they are."""
    return type(layer) in (Functional, keras.Sequential)


def input_signature(model: keras.Model, given: Any = None) -> Any:
    """Returns the specs of a model's inputs, or those given, as tensors'."""
    specs = get_input_signature(model) if given is None else given
    return keras.tree.map_structure(make_tf_tensor_spec, specs)


def stored_kernel(layer: keras.Layer) -> keras.Variable:
    """Returns the variable of a kernel, without what LoRA adds to it."""
    return layer._kernel


def set_policy(layer: keras.Layer, policy: keras.DTypePolicy) -> None:
    """Gives a layer a policy of its own, also if it had a map of policies."""
    layer._dtype_policy = policy


def after_build(layer: keras.Layer, callback: Callable[[], None]) -> None:
    """Has `callback` run once, after the layer's next `build`.

    Several run in the order in which they came.
    """
    waiting = getattr(layer.build, "waiting", None)
    if waiting is not None:
        waiting.append(callback)
        return
    build = layer.build

    @functools.wraps(build)
    def build_then(*args: Any, **kwargs: Any) -> None:
        build(*args, **kwargs)
        layer.build = build
        while build_then.waiting:  # type: ignore[attr-defined]
            build_then.waiting.pop(0)()  # type: ignore[attr-defined]

    build_then.waiting = [callback]  # type: ignore[attr-defined]
    layer.build = build_then


def replace_variable(
    optimizer: keras.optimizers.Optimizer,
    old: keras.Variable,
    new: keras.Variable,
) -> None:
    """Puts a variable of an optimizer into the place of another one.

    In a new list: TensorFlow saves none that was changed within.
    """
    tracker = optimizer._tracker
    kept = [v for v in optimizer._variables if v is not new]
    kept[[v is old for v in kept].index(True)] = new
    tracker.stored_ids["variables"].remove(id(old))
    tracker.stored_ids["variables"].add(id(new))
    with tracking.DotNotTrackScope():  # a tracked list would track without end
        optimizer._variables = kept
    is_variable, _ = tracker.config["variables"]
    tracker.config["variables"] = (is_variable, optimizer._variables)


def starts_accumulation(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns whether the next step is the first that goes into an update.

    True without gradient accumulation, else a bool scalar tensor.
    """
    steps = optimizer.gradient_accumulation_steps
    if not steps:
        return True
    taken = tf.convert_to_tensor(optimizer._iterations)
    return tf.equal(taken % steps, 0)


def conversion_is_known() -> bool:
    """Whether stock layers are in FP8 hands already, or soon will be."""
    return bool(global_state.get_global_attribute(KNOWN))


def conversion_known(known: bool = True) -> None:
    """Says that the user converts: no need to tell how."""
    global_state.set_global_attribute(KNOWN, known)


@contextlib.contextmanager
def converting_children() -> Iterator[None]:
    """Says that the stock layers made inside are about to be converted."""
    before = conversion_is_known()
    global_state.set_global_attribute(KNOWN, True)
    try:
        yield
    finally:
        global_state.set_global_attribute(KNOWN, before)


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Returns the objects that `model.compile` was given, None if never."""
    config = getattr(model, "_compile_config", None)
    return None if config is None else dict(config.config)


def remember_compiled(model: keras.Model, **arguments: Any) -> None:
    """Changes what a file will say that `model.compile` was given."""
    model._compile_config.config.update(arguments)


def start_at(model: keras.Model, epoch: int | None) -> None:
    """Says where the `fit` that begins starts; None: where it was told."""
    model._initial_epoch = epoch


def data_of_fit() -> Any:
    """Returns the data of the `fit` that runs, None if there is no such.

    Keras hands it to nobody, so it is looked up in the frame of `fit`.
    """
    frame = inspect.currentframe()
    while frame is not None and "epoch_iterator" not in frame.f_locals:
        frame = frame.f_back
    return None if frame is None else frame.f_locals["epoch_iterator"]


def callbacks_beside() -> list[keras.callbacks.Callback]:
    """Returns the list of callbacks that calls one now; [] if none does.

    Keras tells callbacks nothing of one another, so it is looked up in the
    frame of their list.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return list(caller.callbacks)
        frame = frame.f_back
    return []


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


@contextlib.contextmanager
def seed_kept() -> Iterator[Any]:
    """Gives the variable of Keras' global seed, and forgets a new one.

    A new one would have been drawn from Python's random numbers.
    """
    name, python = "global_seed_generator", random.getstate()
    before = global_state.get_global_attribute(name)
    try:
        yield None if before is None else before.state
    finally:
        global_state.set_global_attribute(name, before)
        random.setstate(python)
