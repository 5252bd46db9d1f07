"""Sensitivities by trying: one layer at a time in another precision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfmp._keras import training_pass
from tfmp.analysis.batches import Batch
from tfmp.analysis.lowering import call_lowered
from tfmp.analysis.running import Pass, Runner
from tfmp.analysis.tallies import Key, Tally
from tfmp.analysis.variants import Variant


def measure(
    runner: Runner,
    variants: Sequence[Variant],
    batches: Sequence[Batch],
    tally: Tally,
) -> Iterator[float]:
    """Runs each batch once for each variant; yields the reference's losses.

    Args:
        runner: of a model that is at the reference.
        variants: to try.
        batches: to run.
        tally: takes in what was found.
    """
    for batch in batches:
        exact = runner.run(batch)
        runner.look_at_curvature(batch, exact)
        yield float(exact.losses.mean)
        for variant in variants:
            low = _lowered_pass(runner, variant, batch, tally)
            _compare(variant.key, exact, low, batch.size, tally)
            yield float(exact.losses.mean)


def _lowered_pass(
    runner: Runner, variant: Variant, batch: Batch, tally: Tally
) -> Pass:
    subject = variant.subject
    inside = False

    def seen(exact: tf.Tensor, low: tf.Tensor) -> None:
        tally.add_pair(variant.key, "tensor", [exact], [low])

    def wrap(
        path: str, layer: Any, call: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Returns a call that runs in the candidate's precision."""

        @functools.wraps(call)
        def lowered(*args: Any, **kwargs: Any) -> Any:
            """Calls the layer lowered, if this is not that call."""
            nonlocal inside
            if inside:  # the class may be another one now
                return type(layer).call(layer, *args, **kwargs)
            inside = True
            try:
                return call_lowered(variant, args, kwargs, seen)
            finally:
                inside = False

        return lowered

    with training_pass.around_calls({subject.path: subject.layer}, wrap):
        return runner.run(batch)


def _compare(key: Key, exact: Pass, low: Pass, size: int, tally: Tally) -> None:
    tally.add_pair(key, "output", exact.outputs, low.outputs)
    tally.add_pair(key, "gradients", exact.gradients, low.gradients)
    change = low.losses.mean - exact.losses.mean
    if exact.losses.samples is None or low.losses.samples is None:
        # The changes of samples are independent: their mean's square is less.
        square = size * tf.square(change)
    else:
        difference = low.losses.samples - exact.losses.samples
        square = tf.reduce_mean(tf.square(difference))
    tally.add_change(key, float(change), float(square), size)
