"""`sensitivity`: what each layer's precision does to loss and gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfmp._support import checks
from tfmp.analysis import batches as data_of
from tfmp.analysis import candidates as precisions
from tfmp.analysis import effects, subjects, variants
from tfmp.analysis.effects import METHODS, Sensitivity
from tfmp.analysis.estimating import estimate
from tfmp.analysis.measuring import measure
from tfmp.analysis.running import Runner, at_reference
from tfmp.analysis.tallies import Tally
from tfmp.analysis.variants import ROLES, Variant
from tfmp.conversion.sizes import Sizes


def sensitivity(
    model: keras.Model,
    data: Any,
    loss: Any = None,
    candidates: Sequence[Any] = precisions.USUAL,
    samples: int = 256,
    method: str = "estimate",
    *,
    roles: Sequence[str] = ROLES,
    verbose: bool = True,
) -> Sensitivity:
    """Finds out what lowering each layer's precision does to a model.

    The model computes in float32 (in float64 if a candidate does); then one
    layer, or one of the tensors that it multiplies, in a candidate's
    precision.  `"measure"` does so: it runs each batch once for every layer,
    role and candidate.  `"estimate"` runs each batch once, and lets every
    layer look, on the way back, what its own output and gradients would be:

        change of a sample's loss = sum(gradient * change of the output)

    All passes are in training mode.  With batch normalization a sample then
    changes the loss of others, which makes an estimate of `loss_rms` less
    exact: freeze those layers for one (`layer.trainable = False`).

    All passes have the same random numbers, and nothing is left of them:
    weights, moving averages, seeds, optimizer, policies and compiled
    functions are afterwards as before, bit for bit, also after an error.  FP8
    is scaled by the tensors at hand; what delayed scaling costs beyond that is
    not seen.

    Args:
        model: any Keras model, built.
        data: arrays `(x, y)` or `(x, y, sample_weight)`, or an iterable of
            batches of these, such as a `tf.data.Dataset`.  Arrays are taken
            in batches of 32.
        loss: a loss of Keras, its name, or a function of labels and
            predictions; by default the one that the model is compiled with.
        candidates: policies or their names; with a preset as
            `"mixed_float8:current_e4m3"`.  A layer that a conversion would
            not give one is left out for it.
        samples: how many to use, at most; batches stay whole.
        method: `"estimate"` or `"measure"`.
        roles: `"layer"`, for the layer as it would run, and `"inputs"`,
            `"kernel"` and `"grads"`, for one tensor alone.
        verbose: whether to show a progress bar.

    Returns:
        A `Sensitivity`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2505.13060, section 2 (the estimate: the mean square of the
    loss, from gradients and rounding errors).

    >>> import numpy as np
    >>> head = keras.layers.Dense(4, name="head")
    >>> model = keras.Sequential([keras.Input([16]), head], name="net")
    >>> x, y = np.ones([8, 16], "float32"), np.zeros([8, 4], "float32")
    >>> result = sensitivity(model, (x, y), "mse", roles=["layer"],
    ...                      verbose=False)
    >>> [(row.layer, row.candidate) for row in result.rows]
    [('net/head', 'mixed_float8'), ('net/head', 'mixed_bfloat16')]
    """
    check_model(model)
    known = precisions.read(candidates)
    checks.choice("method", method, METHODS)
    roles = checks.names("roles", roles, ROLES)
    checks.integer("samples", samples, 1)
    checks.boolean("verbose", verbose)
    start = time.perf_counter()
    given = data_of.read(data, samples)
    runner = Runner(model, loss)
    found = subjects.find(model, Sizes())
    tries = variants.every(found, known, roles)
    policy, tally = precisions.reference(known), Tally()
    steps = len(given) * (len(tries) + 1 if method == "measure" else 1)
    with at_reference(model, policy):
        run = measure if method == "measure" else estimate
        seen = list(_shown(run(runner, tries, given, tally), steps, verbose))
    loss_found = sum(seen) / len(seen)
    keys = [variant.key for variant in tries]
    return Sensitivity(
        method,
        tuple(effects.rows_of(tally, keys, whole_model=method == "measure")),
        policy.name,
        loss_found,
        sum(batch.size for batch in given),
        runner.terms,
        runner.scale(loss_found),
        time.perf_counter() - start,
        tuple(_notes(tries, tally)),
    )


def _shown(
    steps: Iterator[float], total: int, verbose: bool
) -> Iterator[float]:
    bar = verbose and keras.utils.Progbar(total, interval=1, unit_name="pass")
    for step in steps:
        if bar:
            bar.add(1)
        yield step


def _notes(tries: Sequence[Variant], tally: Tally) -> Iterator[str]:
    lacking = {v.subject.path for v in tries} - {key[0] for key in tally.keys()}
    if lacking:
        yield (
            "no gradient came through, or it ran within a graph: "
            f"{', '.join(sorted(lacking))}"
        )


def check_model(model: Any) -> None:
    """Raises an error unless it is a model that is built."""
    checks.instance("model", model, keras.Model, "a keras.Model")
    if not model.built:
        raise ValueError(
            "`model` must be built: call it, or `model.build(shape)`. "
            f"Received: {model.name!r}, which is not"
        )
