"""What a monitor measures nothing of, in words."""

from __future__ import annotations

import keras

from tfmp import policies
from tfmp.conversion.records import flatten
from tfmp.layers.probe_mixin import Measured
from tfmp.optimizers.automatic import needs_loss_scale

MOST_NAMED = 4


def unmeasured(model: keras.Model, has_float8: bool) -> list[str]:
    """Returns why layers that one may look for are in no sample.

    In float16 the loss scale is what one looks for.

    Args:
        model: built.
        has_float8: whether anything is quantized to FP8.
    """
    paths = [path for path, each in flatten(model).items() if _emulated(each)]
    if paths:
        return [_of_emulated(model.name, paths)]
    if has_float8 or needs_loss_scale(model):
        return []
    return [
        f"No layer of the model {model.name!r} runs in FP8, so that "
        "ScaleMonitor records the loss scale and skipped steps alone, if "
        "the optimizer has them. For FP8, use tfmp.layers under the policy "
        "'mixed_float8', or tfmp.convert."
    ]


def _emulated(layer: keras.Layer) -> bool:
    ours = isinstance(layer, Measured)
    return ours and policies.emulates(policies.of_layer(layer))


def _of_emulated(model: str, paths: list[str]) -> str:
    named = ", ".join(paths[:MOST_NAMED])
    if len(paths) > MOST_NAMED:
        named += f" and {len(paths) - MOST_NAMED} more"
    return (
        f"Emulated layers of the model {model!r} are in no sample: {named}. "
        "They keep no scale, and each of their products rounds its operands "
        "along other axes, so that a tensor has no single error. "
        "tfmp.analysis.sensitivity has the errors of each role; "
        "tfmp.ops.sqnr(x, tfmp.ops.emulate(x, format)) that of a tensor."
    )
