"""What Keras keeps to itself, and a library that converts models needs.

Whatever private part of Keras tfmp reaches from outside is in this module; a
subclass of tfmp uses those of its own base by itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state
from keras.src.export.export_utils import (
    get_input_signature,
    make_tf_tensor_spec,
)
from keras.src.models.functional import Functional

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


def calls(layer: keras.Layer) -> int:
    """Returns how often a functional model calls a layer; else 1."""
    return max(1, len(layer._inbound_nodes))


def reversed_calls(layer: keras.Layer) -> int:
    """Returns how often a functional model calls with `reverse=True`."""
    calls = [node.arguments.kwargs for node in layer._inbound_nodes]
    return sum(bool(arguments.get("reverse")) for arguments in calls)


def is_preprocessing(layer: keras.Layer) -> bool:
    """Whether a layer prepares data, which 16 bits would spoil."""
    return any(
        base.__module__.startswith("keras.src.layers.preprocessing")
        or base.__name__ == "PreprocessingLayer"  # of keras-hub
        for base in type(layer).__mro__
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
    """Puts an optimizer's newest variable into the place of an older one."""
    tracker = optimizer._tracker
    tracker.untrack(new)
    stored = optimizer._variables
    place = [variable is old for variable in stored].index(True)
    tracker.untrack(old)
    stored.insert(place, new)
    tracker.stored_ids["variables"].add(id(new))


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
