"""`search`: the fastest, or the most accurate, precision of each layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfmp._support import checks
from tfmp.analysis import candidates as precisions
from tfmp.analysis import costs, points, problems, sensitivities, subjects
from tfmp.analysis.effects import Sensitivity
from tfmp.analysis.points import Point
from tfmp.analysis.problems import Problem
from tfmp.analysis.search_results import SearchResult
from tfmp.conversion import tracing
from tfmp.conversion.defaults import default_of
from tfmp.conversion.records import flatten
from tfmp.conversion.sizes import Sizes
from tfmp.policies.precision_map import PrecisionMap

USUAL = ("mixed_float8", "mixed_bfloat16", "float32")


def search(
    model: keras.Model,
    sensitivity: Sensitivity,
    *,
    budget: Mapping[str, float],
    target: Any = "h200",
    candidates: Sequence[Any] = USUAL,
    min_cosine: float = 0.0,
    batch_size: int = 32,
    length: int = 512,
) -> SearchResult:
    """Chooses a precision for each layer with products, by what it costs.

        least  time           such that  loss_increase <= budget
        least  loss_increase  such that  time, memory  <= budget

    The first if the budget has a bound on the loss, with all other bounds kept
    too.  A layer's increase of the loss is `Sensitivity.expected_increase`,
    and those of layers add up: rounding errors are independent.  It is an
    integer programme, solved exactly, so that by these numbers no choice in
    the budget is better: not all of one precision, not a rule by shape.

    The map has `mixed_bfloat16` for layers without products, and float32 where
    `tfmp.conversion.DEFAULTS` or the layer itself asks for that.

    Args:
        model: any Keras model, built.
        sensitivity: what `sensitivity` gave for the model and the candidates,
            with rows of `"layer"`; `roles=["layer"]` there is enough.
        budget: the most of one or more: `"loss_increase"` in percent of the
            loss; `"time"`, seconds of the products in a training step;
            `"memory"`, bytes of operands that the backward pass keeps.
        target: what the time is of: a name of `tfmp.cost_model.TARGETS` or a
            `Target`, by the cost model; `"cpu"`, measured here; `"measured"`,
            measured on this machine's fastest device.
        candidates: policies or their names, out of those of `sensitivity`.
            What all were compared to, float32 or float64, is not chosen.
        min_cosine: leaves out a candidate for a layer whose gradients it
            turns further than that; from -1 to 1.
        batch_size: samples in the step that is timed.
        length: what to assume there for any other open length.

    Returns:
        A `SearchResult`.

    Raises:
        ImportError: if SciPy is missing.
        TypeError, ValueError: if an argument is not allowed, or nothing is
            within the budget.

    Source: arXiv 2505.13060, section 3 (the integer programme).

    >>> import numpy as np
    >>> head = keras.layers.Dense(64, name="head")
    >>> model = keras.Sequential([keras.Input([64]), head], name="net")
    >>> data = np.ones([8, 64], "float32"), np.zeros([8, 64], "float32")
    >>> from tfmp.analysis import sensitivity
    >>> effects = sensitivity(model, data, "mse", roles=["layer"],
    ...                       verbose=False)
    >>> found = search(model, effects, budget={"loss_increase": 0.1})
    >>> dict(found.best.choice)
    {'net/head': 'mixed_bfloat16'}
    """
    sensitivities.check_model(model)
    known = precisions.read(candidates)
    limits = points.read_budget(budget)
    seconds = costs.reader(target)
    checks.number("min_cosine", min_cosine, -1.0, 1.0)
    sizes = Sizes(batch_size, length)
    said = "a tfmp.analysis.Sensitivity"
    checks.instance("sensitivity", sensitivity, Sensitivity, said)
    found = subjects.find(model, sizes, tracing.trace(model, sizes))
    _check_analysed(known, sensitivity)
    problem = problems.build(found, known, sensitivity, seconds, min_cosine)
    best, baselines = _best(problem, limits)
    policies = {c.name: c.policy for c in known}
    chosen = {path: policies[name] for path, name in best.choice.items()}
    return SearchResult(
        best,
        PrecisionMap({**chosen, **_float32(model, chosen)}, "mixed_bfloat16"),
        problem.frontier(),
        baselines,
        limits,
        getattr(target, "name", target),
        sensitivity,
    )


def _check_analysed(known: Sequence[Any], sensitivity: Sensitivity) -> None:
    analysed = {row.candidate for row in sensitivity.only()}
    analysed.add("float32")  # the reference, which has no rows
    missing = [each.name for each in known if each.name not in analysed]
    if missing:
        raise ValueError(
            "`candidates` must be out of those that `sensitivity` analysed, "
            f"{sorted(analysed)}. Received: also {missing}"
        )


def _best(
    problem: Problem, limits: Mapping[str, float]
) -> tuple[Point, tuple[Point, ...]]:
    """Returns the best choice, and the baselines."""
    if not problem.subjects:
        raise ValueError(
            "`sensitivity` must have rows of the model's layers and the "
            "candidates. Received: none of them"
        )
    aim = points.aim(limits)
    baselines = tuple(problem.baselines())
    found = problem.solve("", aim, limits)
    # The solver's tolerances must not make a choice worse than a rule.
    known = [p for p in (found, *baselines) if p and p.keeps(limits)]
    if not known:
        least = problem.solve("", next(iter(limits)), {})
        raise ValueError(
            "`budget` must leave a choice; the least "
            f"{next(iter(limits))} alone is "
            f"{getattr(least, next(iter(limits))):.6g}. Received: {limits}"
        )
    best = min(known, key=lambda point: getattr(point, aim))
    return dataclasses.replace(best, name="chosen"), baselines


def _float32(model: keras.Model, chosen: Mapping[str, Any]) -> dict[str, str]:
    """Returns the layers that stay in float32, but for the chosen ones.

    In a model of 16 bits, also those that were told to.
    """
    told = model.compute_dtype != "float32"
    return {
        path: "float32"
        for path, layer in flatten(model).items()
        if path not in chosen
        and not any(path.startswith(f"{other}/") for other in chosen)
        and (
            default_of(layer).precision == "float32"
            or (told and layer.compute_dtype == "float32")
        )
    }
