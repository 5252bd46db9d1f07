"""Loss scaling for every model that computes in float16 by a tfmp policy.

float16 flushes gradients below 6e-8 to zero.  Keras wraps the optimizer of a
model whose own policy is named `mixed_float16`; not of one in plain
`float16`, not if only some layers are in it, and a file says neither that it
did nor that `auto_scale_loss=False` told it not to.  Here `compile` looks at
the layers, and the file holds what it did.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras

from tfmp import policies
from tfmp._keras import compile_arguments, layer_parts
from tfmp.optimizers.loss_scale import LossScaleOptimizer


def needs_loss_scale(model: keras.Layer) -> bool:
    """Whether a layer computes in float16 by a policy of tfmp.

    >>> needs_loss_scale(keras.layers.Dense(1, dtype=policies.get("float16")))
    True
    """
    found = map(policies.of_layer, layer_parts.every_layer(model))
    return any(
        isinstance(policy, policies.Policy)
        and policy.compute_dtype == "float16"
        for policy in found
    )


def scaling(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer scales the loss already."""
    wrapped = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return wrapped or getattr(optimizer, "loss_scale_factor", None) is not None


def _follow_compile(
    model: keras.Model, given: Any, auto_scale_loss: bool
) -> None:
    """Wraps the optimizer of a model that was just compiled.

    Args:
        model: with an optimizer, or with None.
        given: the optimizer that `compile` was given.
        auto_scale_loss: that of `compile`.
    """
    if model.optimizer is None:
        return
    if not auto_scale_loss:  # also if it is converted to float16 later
        compile_arguments.remember(model, auto_scale_loss=False)
    elif needs_loss_scale(model) and not scaling(given):
        model.optimizer = LossScaleOptimizer(given)
        compile_arguments.remember(model, optimizer=model.optimizer)


def install() -> None:
    """Has `compile` of all Keras models look at the layers."""
    trainer = next(c for c in keras.Model.__mro__ if "compile" in vars(c))
    stock = trainer.compile
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def compile(self: Any, *args: Any, **kwargs: Any) -> None:
        """Compiles, and wraps the optimizer if the model needs it."""
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        # One object for both: a name or a dictionary would give two.
        optimizer = keras.optimizers.get(bound.arguments["optimizer"])
        bound.arguments["optimizer"] = optimizer
        stock(*bound.args, **bound.kwargs)
        _follow_compile(self, optimizer, bound.arguments["auto_scale_loss"])

    trainer.compile = compile
