"""What Keras keeps to itself, and who watches a training pass needs.

Beside `internals`, the second module that reaches private parts of Keras.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras


def train_call(model: keras.Model, x: Any) -> Any:
    """Calls a model as Keras' `train_step` does."""
    return model(x, training=True) if model._call_has_training_arg else model(x)


def train_loss(
    model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any
) -> Any:
    """Returns the loss as Keras' `train_step` has it, None if there is none.

    The averages that `compile` keeps of each output's loss stay as they are.
    """
    given = getattr(model, "_compile_loss", None)
    own = type(model).compute_loss is not keras.Model.compute_loss
    missing = not model.losses if given is None else y is None
    if not model.compiled or (missing and not own):
        return None
    if given is not None:
        vars(model)["_compile_loss"] = type(given)(
            given._user_loss,
            given._user_loss_weights,
            given.reduction,
            given.output_names,
        )
    try:
        return model._compute_loss(x, y, y_pred, sample_weight, training=True)
    finally:
        vars(model)["_compile_loss"] = given


@contextlib.contextmanager
def around_calls(
    layers: dict[str, keras.Layer],
    wrap: Callable[[str, keras.Layer, Callable], Callable],
) -> Iterator[None]:
    """Replaces what each layer computes by `wrap(its key, layer, that)`."""
    with contextlib.ExitStack() as stack:
        for key, layer in layers.items():
            mode = layer.quantization_mode
            name = "call" if mode is None else "quantized_call"
            wrapped = wrap(key, layer, getattr(layer, name))
            stack.enter_context(attribute(layer, name, wrapped))
        yield


@contextlib.contextmanager
def attribute(layer: keras.Layer, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute without Keras tracking it."""
    missing = object()
    before = vars(layer).get(name, missing)
    vars(layer)[name] = value
    try:
        yield
    finally:
        if before is missing:
            del vars(layer)[name]
        else:
            vars(layer)[name] = before


def mark_alike(tensor: Any, like: Any) -> None:
    """Puts on a tensor what Keras put on another, such as its mask."""
    for name, value in vars(like).items():
        if name.startswith("_keras"):
            setattr(tensor, name, value)


@contextlib.contextmanager
def losses_kept(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Gives layers back the losses that `add_loss` told them before."""
    before = [(x, list(x._losses), set(x._loss_ids)) for x in layers]
    try:
        yield
    finally:
        for layer, losses, ids in before:
            layer._losses[:] = losses
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)
