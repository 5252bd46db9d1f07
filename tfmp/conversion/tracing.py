"""One symbolic call of a model: what each of its layers is really called on.

A layer's `build` is told shapes that the layer around it may have made up, and
products in a layer's own code have no layer of their own.  So the model is
called once on symbols, as a training step calls it, in a graph that nothing
runs; of each call of a layer are noted the shapes of its tensors, and the
products that its own code puts into the graph.

Weights, state, losses, seeds and attributes are afterwards as they were.  Other
threads may call the model meanwhile: only calls of this thread are noted.  One
call is traced at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfmp._keras import (
    global_notes,
    layer_calls,
    layer_parts,
    symbolic_calls,
    training_pass,
)
from tfmp.conversion import graph_products
from tfmp.conversion.records import flatten
from tfmp.conversion.sizes import Sizes, specs_of
from tfmp.cost_model import Product

LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)
LONGEST = 120  # characters of an error
ONE_AT_A_TIME = threading.RLock()
KERAS_ERROR = re.compile(r"\x1b\[1m\s*(.+?)\x1b\[0m", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        shapes: of the tensors it is called on, in the order of its arguments;
            None is a length that only running it would show.
        products: of its own code, without those of layers inside.
        hides: whether its own code has loops or functions of TensorFlow,
            which are not looked into.
        repeats: how often it runs.
    """

    shapes: tuple[tuple[int | None, ...], ...]
    products: tuple[Product, ...]
    hides: bool
    repeats: int


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a symbolic call showed, or why there was none.

    Attributes:
        inputs: what the model was called on, in words.
        failure: why there was no call, "" if there was.
        calls: of each layer, by its `id`.
    """

    inputs: str = ""
    failure: str = ""
    calls: dict[int, list[Call]] = dataclasses.field(default_factory=dict)

    def of(self, layer: keras.Layer) -> list[Call]:
        """Returns the calls of a layer, none if it was not called."""
        return [call for call in self.calls.get(id(layer), []) if call.repeats]


def trace(model: keras.Layer, sizes: Sizes, inputs: Any = None) -> Trace:
    """Calls a model on symbols.

    Args:
        model: any Keras model or layer.
        sizes: for lengths that are open.
        inputs: what to call it on, arrays or specs; None is what the model
            says that it takes.

    Raises:
        TypeError, ValueError: if `inputs` are no arrays or specs.
    """
    given = None if inputs is None else specs_of(inputs, sizes)
    unsaid = given is None and not layer_calls.says_dtypes(model)
    failure = ""
    for dtype, training in itertools.product(
        (None, "int32") if unsaid else (None,), (True, False)
    ):
        try:
            with ONE_AT_A_TIME:
                said, calls = _called(model, sizes, given, dtype, training)
        except Exception as error:  # whatever anybody's code may raise
            failure = failure or _shortened(error)
            continue
        if failure and not training:
            said += f", for inference, as training fails: {failure}"
        return Trace(said, "", calls)
    return Trace(failure=failure)


def _called(
    model: keras.Layer, sizes: Sizes, given: Any, dtype: Any, training: bool
) -> tuple[str, dict[int, list[Call]]]:
    """Returns what a model was called on, and the calls that were noted."""
    if given is None:
        args, kwargs = layer_calls.signature(model, sizes.fill, dtype)
    else:
        args, kwargs = [keras.tree.map_structure(_symbol, given)], {}
    recorder = _Recorder(sizes)
    with (
        _unchanged(layer_parts.every_layer(model)),
        symbolic_calls.as_stock(),
        symbolic_calls.without_functions(),
        recorder.watching(flatten(model)),
    ):
        symbolic_calls.call_on_symbols(model, args, kwargs, training)
    said = map(_said, keras.tree.flatten([args, kwargs]))
    return ", ".join(said), recorder.calls()


@dataclasses.dataclass
class _Frame:
    """A call that runs: which operators of its graph are of it."""

    layer: keras.Layer
    shapes: tuple[tuple[int | None, ...], ...]
    repeats: int
    graph: tf.Graph
    start: int
    stop: int = 0
    inside: list[_Frame] = dataclasses.field(default_factory=list)

    def own(self, operators: list[tf.Operation]) -> list[tf.Operation]:
        """Returns the operators that no layer inside made."""
        theirs = [
            range(frame.start, frame.stop)
            for frame in self.inside
            if frame.graph is self.graph
        ]
        places = range(self.start, self.stop)
        return [
            operators[place]
            for place in places
            if not any(place in taken for taken in theirs)
        ]


class _Recorder:
    """Notes the calls of layers by the thread that it is made in.

    Args:
        sizes: for lengths that only running a model would show.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._thread = threading.get_ident()
        self._frames: list[_Frame] = []
        self._open: list[_Frame] = []

    @contextlib.contextmanager
    def watching(self, layers: dict[str, keras.Layer]) -> Iterator[None]:
        """Notes all calls within the block."""
        with training_pass.around_calls(layers, self._noting):
            yield

    def calls(self) -> dict[int, list[Call]]:
        """Returns what was noted, in the order in which calls began."""
        found: dict[int, list[Call]] = {}
        operators = {
            id(frame.graph): frame.graph.get_operations()
            for frame in self._frames
        }
        for frame in self._frames:
            own = frame.own(operators[id(frame.graph)])
            if isinstance(frame.layer, LOOPS):
                own = []  # what is in the loop is of the layer inside
            products, hides = graph_products.products_in(own, self._sizes)
            found.setdefault(id(frame.layer), []).append(
                Call(frame.shapes, tuple(products), hides, frame.repeats)
            )
        return found

    def _noting(
        self, path: str, layer: keras.Layer, call: Callable[..., Any]
    ) -> Any:
        parameters = inspect.signature(call)
        run = call
        if isinstance(layer, keras.layers.TimeDistributed):
            run = functools.wraps(call)(functools.partial(_first_step, call))

        @functools.wraps(call)
        def noted(*args: Any, **kwargs: Any) -> Any:
            """Calls, and notes what it is called on."""
            if threading.get_ident() != self._thread:
                return call(*args, **kwargs)
            given = parameters.bind(*args, **kwargs).arguments
            frame = self._begin(layer, _shapes(list(given.values())))
            try:
                return run(*args, **kwargs)
            finally:
                self._open.pop()
                frame.stop = frame.graph.num_operations()

        return noted

    def _begin(self, layer: keras.Layer, shapes: tuple[Any, ...]) -> _Frame:
        graph: Any = tf.compat.v1.get_default_graph()
        above = self._open[-1:]
        repeats = _repeats(above[0], graph) if above else 1
        start = graph.num_operations()
        frame = _Frame(layer, shapes, repeats, graph, start)
        for outer in above:
            outer.inside.append(frame)
        self._frames.append(frame)
        self._open.append(frame)
        return frame


def _repeats(frame: _Frame, graph: tf.Graph) -> int:
    """Returns how often a call inside of another runs.

    Keras' loop over time steps calls a cell once outside of it, to see the
    shapes.
    """
    layer: Any = frame.layer
    if not isinstance(layer, LOOPS) or getattr(layer, "unroll", False):
        return frame.repeats
    if isinstance(layer, keras.layers.RNN) and graph is frame.graph:
        return 0
    return frame.repeats * (frame.shapes[0][1] or 1)


def _first_step(call: Callable[..., Any], inputs: Any, **kwargs: Any) -> Any:
    """Calls `keras.layers.TimeDistributed`, which is a loop, on one step."""
    if kwargs.get("mask") is not None:
        kwargs["mask"] = kwargs["mask"][:, :1]
    outputs = call(inputs[:, :1], **kwargs)
    return tf.repeat(outputs, inputs.shape[1] or 1, axis=1)


def _shapes(given: Any) -> tuple[tuple[int | None, ...], ...]:
    return tuple(
        tuple(each.shape)
        for each in keras.tree.flatten(given)
        if tf.is_tensor(each) and each.shape.rank is not None
    )


@contextlib.contextmanager
def _unchanged(layers: list[keras.Layer]) -> Iterator[None]:
    with (
        global_notes.seed_kept(),
        training_pass.losses_kept(layers),
        symbolic_calls.as_they_were(layers),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # those of a call that nobody asked for
        yield


def _symbol(spec: tf.TensorSpec) -> keras.KerasTensor:
    return keras.KerasTensor(tuple(spec.shape), spec.dtype.name)


def _said(symbol: Any) -> str:
    return "none" if symbol is None else f"{symbol.dtype} {symbol.shape}"


def _shortened(error: Exception) -> str:
    """Returns an error's message in a line, without what Keras puts around."""
    text = str(error).strip() or type(error).__name__
    inner = KERAS_ERROR.search(text)
    line = (inner.group(1) if inner else text).splitlines()[0]
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
