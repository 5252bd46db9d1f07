"""What a layer costs in each precision: time and memory of a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tfmp import cost_model
from tfmp._support import checks
from tfmp.analysis import timing
from tfmp.analysis.candidates import Candidate
from tfmp.analysis.subjects import Subject
from tfmp.cost_model import Target

MEASURED = ("cpu", "measured")
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# A device of one's own is taken to be like an L4, without tensor cores for
# float64.
OTHERS = "l4"


def reader(target: Any) -> Callable[[Subject, Candidate], float]:
    """Returns what tells the seconds of a layer's products in a step.

    Args:
        target: `"cpu"`, `"measured"` for this machine's fastest device, a name
            of `tfmp.cost_model.TARGETS` or a `Target`.

    Raises:
        TypeError, ValueError: if it is none of these.
    """
    if isinstance(target, Target):
        return lambda subject, candidate: predicted(subject, candidate, target)
    names = (*MEASURED, *cost_model.TARGETS)
    if checks.choice("target", target, names) in MEASURED:
        return timing.Stopwatch("CPU:0" if target == "cpu" else None)
    return reader(cost_model.get(target))


def predicted(subject: Subject, candidate: Candidate, target: Target) -> float:
    """Returns the seconds that the cost model predicts.

    An emulated format is taken to be as fast as FP8.
    """
    times = [
        cost_model.float8_time(product, target)
        if candidate.recipe is not None
        else cost_model.bfloat16_time(product, _as_if(target, candidate.dtype))
        for product in subject.products
    ]
    return subject.calls * sum(times)


def memory(subject: Subject, candidate: Candidate) -> float:
    """Returns the bytes of operands that are kept for the backward pass.

    Of each product its inputs and its kernel, in the format in which the
    gradients multiply them: the copy of a kernel that is float32 anyway costs
    nothing.
    """
    total = 0.0
    for product in subject.products:
        inputs, kernel, _ = product.sizes
        of_inputs, of_kernel = _kept(candidate, product.float8)
        total += inputs * of_inputs
        if candidate.dtype != "float32":
            total += kernel * of_kernel
    return subject.calls * total


def _kept(
    candidate: Candidate, low: tuple[bool, bool, bool]
) -> tuple[float, float]:
    """Returns the bytes of a kept input, and of a kept kernel."""
    wide, recipe = BYTES[candidate.dtype], candidate.recipe
    if recipe is None:
        return wide, wide
    output, input_grad, _ = (True,) * 3 if recipe.emulates else low
    # A kernel gradient in 16 bits reads the copies that the output has.
    inputs = output and recipe.lowers("output") and recipe.lowers("kernel_grad")
    kernel = input_grad and recipe.lowers("input_grad")
    return (
        recipe.format("inputs").bits / 8 if inputs else wide,
        recipe.format("kernel").bits / 8 if kernel else wide,
    )


def _as_if(target: Target, dtype: str) -> Target:
    """Returns a device whose 16 bits cost what the dtype costs on this one."""
    width = BYTES[dtype] / 2
    known = target.name if target.name in cost_model.PEAKS else OTHERS
    peaks = cost_model.PEAKS[known]
    peak = {"float64": peaks.float64, "float32": peaks.float32}.get(dtype)
    rate = (peak or peaks.bfloat16) / peaks.bfloat16
    return dataclasses.replace(
        target,
        bfloat16=target.bfloat16 * rate,
        bandwidth=target.bandwidth / width,
    )
