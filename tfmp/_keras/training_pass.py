"""A training pass as Keras makes it: its graph, its scope, its variables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import stateless_scope

FUNCTION = tf.types.experimental.PolymorphicFunction
KERAS_FUNCTIONS = ("train_function", "test_function", "predict_function")


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
    wrap: Callable[[str, keras.Layer, Callable[..., Any]], Callable[..., Any]],
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


def has_functions(layers: Iterable[keras.Layer]) -> bool:
    """Whether a method of a layer is a `tf.function`.

    Its traces outlive this one: they read the variables themselves, and must
    not keep tensors of a trace that is gone.
    """
    own = [
        value
        for layer in layers
        for place in (layer, *type(layer).__mro__)
        for name, value in vars(place).items()
        if name not in KERAS_FUNCTIONS
    ]
    return any(isinstance(value, FUNCTION) for value in own)


def of_graph(name: str) -> dict[Any, Any]:
    """Returns a dictionary that is kept on the graph that is built now.

    Eagerly, and in a `keras.StatelessScope`, a new one each time.
    """
    scope = stateless_scope.in_stateless_scope()
    if scope or not tf.inside_function():
        return {}
    graph: Any = tf.compat.v1.get_default_graph()
    if not hasattr(graph, name):
        setattr(graph, name, {})
    found: dict[Any, Any] = getattr(graph, name)
    return found


def place(variable: keras.Variable) -> int:
    """Returns what tells a variable from others, and a replica's copy of it."""
    if tf.distribute.has_strategy():
        if tf.distribute.in_cross_replica_context():
            return id(variable)
        return id(getattr(variable.value, "handle", variable))
    return id(variable)


def access(
    variable: keras.Variable,
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Returns what reads and what writes a variable, for gradients of a graph.

    The gradient of a branch of `tf.cond` reaches a variable only by what the
    branch has captured.  Each replica reads and writes its own copy.  In a
    `keras.StatelessScope` they are those of the scope.
    """
    scope = stateless_scope.get_stateless_scope()
    if scope is None:
        return _access_to(variable)
    inside = _access_in(scope, variable)
    given = scope.get_current_value(variable) is not None
    if given or not hasattr(variable.value, "handle"):
        return inside
    # A function that is traced as Keras builds a model runs without the scope.
    beyond = _access_to(variable)

    def now() -> Any:
        within = stateless_scope.get_stateless_scope() is scope
        return inside if within else beyond

    return lambda: now()[0](), lambda value: now()[1](value)


def _access_to(
    variable: keras.Variable,
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    if (
        tf.distribute.has_strategy()
        and tf.distribute.in_cross_replica_context()
    ):
        return lambda: tf.convert_to_tensor(variable), variable.assign
    at_hand = variable.value.handle
    graph, captured = tf.compat.v1.get_default_graph(), at_hand
    if not tf.executing_eagerly() and hasattr(graph, "capture"):
        captured = graph.capture(at_hand)

    def handle() -> tf.Tensor:
        return captured if _is_gradient_of(graph) else at_hand

    def read() -> tf.Tensor:
        """Returns the value as it is when the program gets here."""
        value = tf.raw_ops.ReadVariableOp(
            resource=handle(), dtype=variable.dtype
        )
        value.set_shape(variable.shape)  # EnsureShape has XLA inline dropout
        return value

    def write(value: tf.Tensor) -> None:
        tf.raw_ops.AssignVariableOp(resource=handle(), value=value)

    return read, write


def _is_gradient_of(graph: Any) -> bool:
    """Whether the gradient that is built now can use tensors of a graph.

    That of the graph itself, of a branch or of a loop's body can.  The gradient
    of a `tf.function` must not: it would be given the variable by the call
    before, and TensorFlow puts calls in order by what they share.
    """
    now: Any = tf.compat.v1.get_default_graph()
    if now is graph:
        return True
    while now is not None:
        if getattr(now, "_forward_graph", None) is graph:
            return True
        now = getattr(now, "outer_graph", None)
    return False


def _access_in(
    scope: Any, variable: keras.Variable
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    graph = tf.compat.v1.get_default_graph()

    def read() -> Any:
        """Returns the value as it is when the program gets here."""
        value = scope.get_current_value(variable)
        return variable.value if value is None else value

    def write(value: tf.Tensor) -> None:
        # Of a loop's body, or its gradient's, the scope can hold no tensor.
        if tf.compat.v1.get_default_graph() is graph:
            scope.add_update((variable, value))

    return read, write
