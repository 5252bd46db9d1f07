"""Sensitivities from one pass, by Taylor's series of the loss.

While the gradient comes back through a layer, everything that its precision
changes is at hand: its input `x`, its weights, and the gradient `g` of its
output.  There and then the layer runs once more in the reference and in each
precision asked for, forwards and backwards, on these very tensors.  With `d`
the change of its output,

    change of a sample's loss = sum(g * d)  + what is of second order

where `g` is the gradient of that sample's loss.  So a batch costs as much as
one training step for the reference and one for each variant, whatever the
number of layers, and nothing is kept but the tensors of one training step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfmp._core import custom_gradients
from tfmp._keras import training_pass
from tfmp.analysis.batches import Batch
from tfmp.analysis.lowering import call_lowered
from tfmp.analysis.running import Runner, first_tensors, unchanged, weights
from tfmp.analysis.subjects import Subject
from tfmp.analysis.tallies import Key, Tally
from tfmp.analysis.variants import Variant


def estimate(
    runner: Runner,
    variants: Sequence[Variant],
    batches: Sequence[Batch],
    tally: Tally,
) -> Iterator[float]:
    """Runs each batch once; yields the loss of the reference."""
    watched: dict[str, list[Variant]] = {}
    for variant in variants:
        watched.setdefault(variant.subject.path, []).append(variant)
    layers = {path: tries[0].subject.layer for path, tries in watched.items()}
    for batch in batches:
        looker = _Looker(watched, batch.size, tally)
        with training_pass.around_calls(layers, looker.wrap):
            found = runner.run(batch)
        looker.close()
        runner.look_at_curvature(batch, found)
        yield float(found.losses.mean)


class _Looker:
    """Looks at each layer as its gradient comes by, for one batch."""

    def __init__(
        self, watched: dict[str, list[Variant]], size: int, tally: Tally
    ) -> None:
        self._watched = watched
        self._size = size
        self._tally = tally
        self._busy = False
        self._changes: dict[Key, tf.Tensor] = {}

    def wrap(
        self, path: str, layer: keras.Layer, call: Any
    ) -> Callable[..., Any]:
        """Returns a `call` that looks, and gives what the layer gives."""
        tries = self._watched[path]

        @functools.wraps(call)
        def looked(*args: Any, **kwargs: Any) -> Any:
            """Calls, and has its gradient look on the way back."""
            if self._busy:  # the class may be another one now
                return type(layer).call(layer, *args, **kwargs)
            outputs = call(*args, **kwargs)
            if not tf.executing_eagerly():
                return outputs
            tensors = first_tensors([outputs])

            @custom_gradients.custom_gradient
            def look(*given: tf.Tensor) -> tuple[Any, Callable[..., Any]]:
                """Returns what it is given; its gradient looks as well."""

                def grad(*upstream: tf.Tensor) -> Any:
                    self._look(tries, args, kwargs, upstream)
                    return upstream

                return [tf.identity(each) for each in given], grad

            same = dict(zip(map(id, tensors), look(*tensors), strict=True))
            return keras.tree.map_structure(
                lambda leaf: same.get(id(leaf), leaf), outputs
            )

        return looked

    def close(self) -> None:
        """Takes in the changes of the loss, all calls of a layer together."""
        for key, change in self._changes.items():
            # The loss is a mean over the batch: a sample's own is as much more.
            square = tf.reduce_mean(tf.square(self._size * change))
            total = tf.reduce_sum(change)
            self._tally.add_change(key, float(total), float(square), self._size)

    def _look(
        self, tries: list[Variant], args: Any, kwargs: Any, upstream: Any
    ) -> None:
        self._busy = True
        try:
            args, kwargs = keras.tree.map_structure(_stopped, (args, kwargs))
            subject = tries[0].subject
            exact = _run(subject, None, args, kwargs, upstream)
            for variant in tries:
                low = _run(
                    subject, variant, args, kwargs, upstream, self._tally
                )
                self._compare(variant, exact, low, args, upstream)
        finally:
            self._busy = False

    def _compare(
        self, variant: Variant, exact: Any, low: Any, args: Any, upstream: Any
    ) -> None:
        key, add = variant.key, self._tally.add_pair
        for name, before, after in zip(
            ("output", "inputs", "weights"), exact, low, strict=True
        ):
            add(key, name, before, after)
        changes = [
            _by_sample(
                (tf.cast(b, g.dtype) - tf.cast(a, g.dtype)) * g, self._size
            )
            for a, b, g in zip(exact[0], low[0], upstream, strict=True)
        ]
        before = self._changes.get(key, 0.0)
        self._changes[key] = before + tf.add_n(changes)


def _run(
    subject: Subject,
    variant: Variant | None,
    args: Any,
    kwargs: Any,
    upstream: Any,
    tally: Tally | None = None,
) -> tuple[list[Any], list[Any], list[Any]]:
    """Returns outputs, and the gradients of inputs and of weights."""
    inputs, layer = first_tensors([args, kwargs]), subject.layer
    variables = weights(layer)
    with (
        unchanged(layer),
        tf.GradientTape(watch_accessed_variables=False) as tape,
    ):
        tape.watch([*inputs, *(v.value for v in variables)])
        if variant is None or tally is None:
            result = layer(*args, **kwargs)
        else:
            key = variant.key
            result = call_lowered(
                variant,
                args,
                kwargs,
                lambda a, b: tally.add_pair(key, "tensor", [a], [b]),
            )
    outputs = first_tensors([result])
    given = [
        tf.cast(g, y.dtype) for g, y in zip(upstream, outputs, strict=True)
    ]
    found = tape.gradient(
        outputs, [*inputs, *variables], output_gradients=given
    )
    return outputs, found[: len(inputs)], found[len(inputs) :]


def _by_sample(x: tf.Tensor, size: int) -> tf.Tensor:
    """Sums all that belongs to a sample, in float64.

    Layers inside may have samples and steps in one axis; what has no axis of
    samples is shared evenly.
    """
    x = tf.cast(x, tf.float64)
    if x.shape.rank and int(x.shape[0]) % size == 0:
        return tf.reduce_sum(tf.reshape(x, [size, -1]), axis=1)
    return tf.fill([size], tf.reduce_sum(x) / size)


def _stopped(leaf: Any) -> Any:
    if not isinstance(leaf, tf.Tensor):
        return leaf
    stopped = tf.stop_gradient(leaf)
    training_pass.mark_alike(stopped, leaf)
    return stopped
