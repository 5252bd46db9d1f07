"""Watches a pass: what goes into and comes out of every layer call."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfmp._core.observations import SINCE
from tfmp._keras import layer_parts, training_pass
from tfmp.conversion.records import flatten
from tfmp.debug.findings import Search
from tfmp.layers.float8_state import Float8State, states_of

ENTERED, LEFT = "entered", "left"
Tensors = list[tuple[str, Any]]


@dataclasses.dataclass
class Call:
    """One call of a layer; each list holds names and tensors.

    Attributes:
        layer: its path and its class.
        weights: the layer's own, in its first call only.
        inputs: the floating tensors among the arguments.
        outputs: those in the result that no layer inside gave before.
    """

    layer: tuple[str, str]
    weights: Tensors
    inputs: Tensors
    outputs: Tensors = dataclasses.field(default_factory=list)


class Recorder:
    """Looks at all that layers see, in the order in which they see it.

    A call in a graph (inside a loop of TensorFlow, or a function) has no
    values to look at: the layer around it speaks for it.

    Args:
        model: built.
        search: which looks at the tensors.
    """

    def __init__(self, model: keras.Model, search: Search) -> None:
        self._model = model
        self._search = search
        self._paths = flatten(model)
        self._called: set[int] = set()
        self._given: dict[int, Any] = {}  # keeps them: ids are used again
        self._gradients: dict[int, Any] = {}
        self._events: list[tuple[str, Call]] = []
        self._recording = False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Watches the calls made inside, and those only."""
        with training_pass.around_calls(self._paths, self._watched):
            self._recording = True
            try:
                yield
            finally:
                self._recording = False

    def _watched(
        self, path: str, layer: keras.Layer, call: Any
    ) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            """Calls, and records what goes in and comes out."""
            # A gradient may compute a layer again (`tf.recompute_grad`).
            if not self._recording or not tf.executing_eagerly():
                return call(*args, **kwargs)
            args, kwargs = keras.tree.map_structure(_twin, (args, kwargs))
            entered = self._enter(path, layer, args, kwargs)
            outputs = call(*args, **kwargs)
            self._leave(entered, layer, outputs)
            return outputs

        return watched

    def _enter(
        self, path: str, layer: keras.Layer, args: Any, kwargs: Any
    ) -> Call:
        first = id(layer) not in self._called
        self._called.add(id(layer))
        call = Call(
            (path, type(layer).__name__),
            weights(layer) if first else [],
            named([*args, kwargs]),
        )
        self._events.append((ENTERED, call))
        self._search.look("input", call.inputs, *call.layer, anew=True)
        self._search.look("weight", call.weights, *call.layer)
        return call

    def _leave(self, call: Call, layer: keras.Layer, outputs: Any) -> None:
        new = [(n, t) for n, t in named(outputs) if id(t) not in self._given]
        self._given.update({id(tensor): tensor for _, tensor in new})
        call.outputs = new
        self._events.append((LEFT, call))
        before = self._search.finding
        self._search.look("activation", new, *call.layer)
        if self._search.finding is not before:
            self._search.prefer("weight", statistics(layer), *call.layer)

    def look_at_gradients(self, tape: tf.GradientTape, loss: Any) -> None:
        """Looks at all gradients of a loss, in the order of the pass back."""
        variables = self._model.trainable_variables
        calls = [call for _, call in self._events]
        tensors = [t for c in calls for _, t in (*c.inputs, *c.outputs)]
        dense = [t for t in tensors if isinstance(t, tf.Tensor)]
        sources = [*dense, *variables]
        found = tape.gradient(loss, sources)
        self._gradients = {
            id(s): g for s, g in zip(sources, found, strict=True)
        }
        for event, call in reversed(self._events):
            if event == LEFT:
                self._look("activation", call.outputs, call.layer, anew=True)
            else:
                self._look("weight", call.weights, call.layer)
                self._look("input", call.inputs, call.layer)
        for path, layer in self._paths.items():
            of = path, type(layer).__name__
            self._look("weight", weights(layer), of)
        # Of products in a loop or a function nothing else has been seen.
        for path, layer in self._paths.items():
            of = path, type(layer).__name__
            self._search.look("observed amax", observed(layer), *of)

    def weight_gradients(self) -> Iterator[tuple[tuple[str, str, str], Any]]:
        """Yields name, layer and class of each weight, and its gradient."""
        for path, layer in self._paths.items():
            for name, variable in weights(layer):
                gradient = self._gradients.get(id(variable))
                if gradient is not None:
                    yield (name, path, type(layer).__name__), gradient

    def _look(
        self,
        what: str,
        tensors: Tensors,
        layer: tuple[str, str],
        anew: bool = False,
    ) -> None:
        for name, tensor in tensors:
            gradient = self._gradients.get(id(tensor))
            kind = f"gradient of {what}"
            self._search.look(kind, [(name, gradient)], *layer, anew=anew)


def look_at_rest(model: keras.Model, search: Search) -> None:
    """Looks at weights of layers that were not called, and at averages."""
    for path, layer in flatten(model).items():
        rest = [*weights(layer), *statistics(layer)]
        search.look("weight", rest, path, type(layer).__name__)


def named(structure: Any) -> Tensors:
    """Returns the floating tensors of a structure, each with its path.

    One alone has no name.
    """
    found = [
        ("/".join(str(key) for key in path), leaf)
        for path, leaf in keras.tree.flatten_with_path(structure)
        if tf.is_tensor(leaf) and leaf.dtype.is_floating
    ]
    return found if len(found) > 1 else [("", leaf) for _, leaf in found]


def weights(layer: keras.Layer) -> Tensors:
    """Returns the variables that a layer trains or could."""
    fixed = {id(variable) for variable in layer_parts.statistics(layer)}
    every = layer_parts.own_weights(layer)
    return [(v.path, v) for v in every if id(v) not in fixed]


def statistics(layer: keras.Layer) -> Tensors:
    """Returns variables that no gradient changes, such as averages."""
    if isinstance(layer, Float8State):  # of which a product takes no infinity
        return []
    return [(v.path, v) for v in layer_parts.statistics(layer)]


def observed(layer: keras.Layer) -> Tensors:
    """Returns the FP8 state of a layer, with what a pass has observed."""
    states = states_of(layer_parts.own_weights(layer))
    return [
        (s.variable.path, tf.convert_to_tensor(s.variable)[SINCE])
        for s in states
    ]


def _twin(leaf: Any) -> Any:
    """Returns a tensor of its own for each call, to have a gradient of it."""
    if not isinstance(leaf, tf.Tensor) or not leaf.dtype.is_floating:
        return leaf
    twin = tf.identity(leaf)
    training_pass.mark_alike(twin, leaf)
    return twin
