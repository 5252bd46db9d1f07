"""Calling a Keras model on symbols, so that nothing of the call remains."""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state

from tfmp._keras import training_pass

CONTAINERS = (list, dict, set, collections.deque)
FUNCTIONS = "it calls a tf.function, which would keep what it is traced in"
LIBRARIES = ("keras", "tensorflow", "tfmp")
STOCK = "tfmp_as_stock"


def call_on_symbols(
    layer: keras.Layer,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    training: bool,
) -> None:
    """Calls a layer in a graph that nothing runs.

    Whatever it would assign to variables is dropped.

    Args:
        layer: built.
        args: symbols.
        kwargs: symbols.
        training: given to the layer, if it takes it.
    """
    mode = {"training": training} if layer._call_has_training_arg else {}
    compute_output_spec(layer, *args, **kwargs, **mode)


@contextlib.contextmanager
def as_stock() -> Iterator[None]:
    """Has FP8 layers that this thread calls compute as those of Keras."""
    before = is_as_stock()
    global_state.set_global_attribute(STOCK, True)
    try:
        yield
    finally:
        global_state.set_global_attribute(STOCK, before)


def is_as_stock() -> bool:
    """Whether FP8 layers compute as those of Keras just now."""
    return bool(global_state.get_global_attribute(STOCK))


@contextlib.contextmanager
def without_functions() -> Iterator[None]:
    """Lets this thread call no `tf.function`, wherever it is kept.

    One that is traced here would keep this trace, which drops what it assigns.
    Those of the LIBRARIES assign nothing, and run without being traced.
    Other threads are not affected.
    """
    cls: Any = type(tf.function(lambda: None))
    here, call = threading.get_ident(), cls.__call__
    concrete = cls.get_concrete_function

    @functools.wraps(call)
    def call_inline(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the code of a function, and traces none."""
        if threading.get_ident() != here:
            return call(self, *args, **kwargs)
        code = self.python_function
        code = getattr(code, "func", code)  # of a `functools.partial`
        module = getattr(code, "__module__", None) or ""
        if module.partition(".")[0] not in LIBRARIES:
            raise ValueError(FUNCTIONS)
        return self.python_function(*args, **kwargs)

    @functools.wraps(concrete)
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Raises, in this thread."""
        if threading.get_ident() != here:
            return concrete(self, *args, **kwargs)
        raise ValueError(FUNCTIONS)

    cls.__call__, cls.get_concrete_function = call_inline, refuse
    try:
        yield
    finally:
        cls.__call__, cls.get_concrete_function = call, concrete


@contextlib.contextmanager
def as_they_were(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Gives layers all attributes back, and lets this thread build none.

    So are the contents of lists, dictionaries, sets and deques that they hold.
    Objects of other classes, and what other threads set on a built layer
    meanwhile, are not told apart: the first stay changed, the second is lost.
    """
    layers = list(layers)
    built = [layer for layer in layers if layer.built]
    before = [(vars(layer), dict(vars(layer))) for layer in built]
    roots = [x for _, known in before for x in known.values()]
    roots += [layer._tracker.stored_ids for layer in built]
    contents = list(_contents(roots))
    try:
        with contextlib.ExitStack() as stack:
            for layer in layers:
                if not layer.built:
                    name, refuse = "_maybe_build", _refusal(layer)
                    stack.enter_context(
                        training_pass.attribute(layer, name, refuse)
                    )
            yield
    finally:
        for now, known in before:
            _put_back(now, known)
        for container, content, ids in contents:
            if _ids(container) != ids:
                _refill(container, content)


def _refusal(layer: keras.Layer) -> Callable[..., Any]:
    here, build = threading.get_ident(), layer._maybe_build

    def refuse(*args: Any) -> None:
        """Raises, in this thread."""
        if threading.get_ident() != here:
            build(*args)
            return
        raise ValueError("it has a layer that is not built")

    return refuse


def _put_back(now: dict[str, Any], known: dict[str, Any]) -> None:
    """Changes no attribute that is as it was: others may be reading them."""
    for name in now.keys() - known.keys():
        del now[name]
    for name, value in known.items():
        if name not in now or now[name] is not value:
            now[name] = value


def _contents(roots: list[Any]) -> Iterator[tuple[Any, list[Any], list[int]]]:
    """Yields each container below, what it holds, and the `id` of each."""
    seen, waiting = set(), roots
    while waiting:
        held = waiting.pop()
        if isinstance(held, tuple):
            waiting.extend(held)
        elif isinstance(held, CONTAINERS) and id(held) not in seen:
            seen.add(id(held))
            content: list[Any] = list(
                held.items() if isinstance(held, dict) else held
            )
            waiting.extend(content)
            yield held, content, _ids(held)


def _ids(container: Any) -> list[int]:
    values = container.values() if isinstance(container, dict) else ()
    return [*map(id, container), *map(id, values)]


def _refill(container: Any, content: list[Any]) -> None:
    """Puts content back past Keras, which refuses to track anew."""
    kind: Any = next(
        cls
        for cls in type(container).__mro__
        if not cls.__module__.startswith("keras.")
    )
    kind.clear(container)
    ordered = isinstance(container, list | collections.deque)
    (kind.extend if ordered else kind.update)(container, content)
