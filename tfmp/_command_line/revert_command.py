"""`tfmp revert`: a model's file as plain Keras loads it."""

from __future__ import annotations

import argparse
from typing import Any

from tfmp._command_line import model_files
from tfmp._command_line.outcome import Command, Outcome
from tfmp._support.policy_names import NAMES, full_name


def _arguments(parser: argparse.ArgumentParser) -> None:
    model_files.add_arguments(parser)
    model_files.add_out(parser)
    parser.add_argument(
        "--policy",
        type=full_name,
        choices=[name for name in NAMES if not name.endswith("8")],
        metavar="NAME",
        help="Keras' dtype policy for all layers; else that which each had",
    )


def _run(options: argparse.Namespace) -> Outcome:
    out = model_files.checked_out(options.out, options.force)
    model = model_files.load(options.model, options.modules)
    ours = to_keras(model, options.policy)
    model_files.save(model, out)
    text = f"layers that were of tfmp: {len(ours)}\nwrote {out}"
    return Outcome(text, {"path": str(out), "layers": ours})


def to_keras(model: Any, policy: str | None = None) -> list[str]:
    """Makes a model one of plain Keras.

    Args:
        model: any Keras model.
        policy: name of Keras' policy of all layers; None for that which each
            had, as far as its file says so, or the mixed one of its dtype.

    Returns:
        The paths of the layers that were of tfmp.
    """
    import keras

    from tfmp import conversion
    from tfmp._keras import class_and_policy
    from tfmp.conversion.records import flatten, stock_class

    layers = flatten(model)
    ours = [p for p, x in layers.items() if stock_class(x) is not type(x)]
    conversion.revert(model)
    _give_plain_optimizer(model)
    for layer in layers.values() if policy else ():
        if layer.quantization_mode is None:
            class_and_policy.assign(layer, keras.DTypePolicy(policy))
    return ours


def _give_plain_optimizer(model: Any) -> None:
    """Puts what is inside a `LossScaleOptimizer` of tfmp in its place.

    A loss scale that moves goes on in Keras' `LossScaleOptimizer`.
    """
    import keras

    from tfmp import optimizers
    from tfmp._keras import compile_arguments

    scaled = getattr(model, "optimizer", None)
    if not isinstance(scaled, optimizers.LossScaleOptimizer):
        return
    plain = scaled.inner_optimizer
    if scaled.rule.dynamic:
        scale = float(scaled.rule.in_use(scaled.dynamic_scale))
        plain = keras.optimizers.LossScaleOptimizer(plain, scale)
        plain.build(model.trainable_variables)
    model.optimizer = plain
    compile_arguments.remember(model, optimizer=plain)


COMMAND = Command(
    "revert",
    "write a model's file for plain Keras, without tfmp",
    _arguments,
    _run,
    (
        "tfmp revert fp8.keras model.keras",
        "tfmp revert fp8.keras model.keras --policy float32",
    ),
)
