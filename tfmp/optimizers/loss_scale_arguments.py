"""Checks of what a `LossScaleOptimizer` is given."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._support import checks

# What Keras' LossScaleOptimizer takes only as it is by default: old files.
OF_OLD_FILES = {
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
VARIABLE = keras.Variable | tf.Variable
GRADIENT = tf.Tensor | tf.IndexedSlices | np.ndarray | None


def checked_variables(name: str, variables: Any) -> list[Any]:
    """Returns the variables as a list, if they are some."""
    return checks.sequence(name, variables, VARIABLE, "a list of variables")


def checked_pairs(
    grads: Any, variables: Any, known: list[Any]
) -> list[tuple[Any, Any]]:
    """Returns each gradient with its variable, if they fit.

    Args:
        grads: what `apply` was given.
        variables: the same; None for all that are known.
        known: what the optimizer was built with.
    """
    said = "a list of tensors and None"
    grads = checks.sequence("grads", grads, GRADIENT, said)
    variables = known if variables is None else variables
    variables = checked_variables("trainable_variables", variables)
    if len(grads) != len(variables):
        raise ValueError(
            "`grads` must have one entry for each variable. Received: "
            f"{len(grads)} for {len(variables)} variables"
        )
    check_known("trainable_variables", variables, known)
    for gradient, variable in zip(grads, variables, strict=True):
        if gradient is not None:
            _check_fits(gradient, variable)
    return list(zip(map(_as_tensor, grads, variables), variables, strict=True))


def check_known(name: str, variables: list[Any], known: list[Any]) -> None:
    """Refuses variables that the optimizer was not built with."""
    ids = set(map(id, known))
    for variable in variables:
        if id(variable) not in ids:
            raise ValueError(
                f"`{name}` must be those that the optimizer was built with; "
                "for layers that were frozen when it was built, compile with "
                "a new optimizer. Received: unknown variable "
                f"'{_path(variable)}'"
            )


def _check_fits(gradient: Any, variable: Any) -> None:
    shape = tf.TensorShape(gradient.shape)
    floating = tf.as_dtype(gradient.dtype).is_floating
    if not floating or not shape.is_compatible_with(variable.shape):
        raise ValueError(
            "`grads` must have floating-point values of shape "
            f"{variable.shape} for the variable '{_path(variable)}'. Received: "
            f"dtype {gradient.dtype}, shape {shape}"
        )


def _as_tensor(gradient: Any, variable: keras.Variable) -> Any:
    """Returns an array of NumPy, float64 by default, as a tensor."""
    if not isinstance(gradient, np.ndarray):
        return gradient
    wide = tf.as_dtype(variable.dtype) == tf.float64
    narrow = gradient.dtype == np.float64 and not wide
    return tf.convert_to_tensor(
        gradient.astype(np.float32) if narrow else gradient
    )


def _path(variable: keras.Variable) -> str:
    found: str = getattr(variable, "path", variable.name)
    return found


def of_keras(kwargs: dict[str, Any], growth_steps: Any) -> Any:
    """Returns the growth steps, also by Keras' name, and refuses the rest.

    Args:
        kwargs: of `LossScaleOptimizer`, beyond what it names.
        growth_steps: what it was given by its own name.
    """
    rest = dict(kwargs)
    growth_steps = rest.pop("dynamic_growth_steps", growth_steps)
    for name in [name for name in OF_OLD_FILES if name in rest]:
        value = rest.pop(name)
        if value != OF_OLD_FILES[name]:
            raise ValueError(
                f"`{name}` must be set on the `inner_optimizer`: "
                "LossScaleOptimizer only scales the loss. "
                f"Received: {name}={value!r}"
            )
    if rest:
        unknown = "`, `".join(rest)
        raise ValueError(
            f"LossScaleOptimizer does not have the arguments: `{unknown}`. It "
            "takes `initial_scale`, `growth_steps`, `factors`, `bounds`, "
            f"`dynamic`, `hysteresis` and `name`. Received: {rest!r}"
        )
    return growth_steps


def checked_inner(inner: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer, also of a name, if one can be inside."""
    if isinstance(inner, str):
        inner = _named(inner)
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise TypeError(
            "`inner_optimizer` must be a Keras optimizer or its name. "
            f"Received: {inner!r}"
        )
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "`inner_optimizer` must not be a LossScaleOptimizer: the loss "
            f"would be scaled twice. Received: {inner!r}"
        )
    for part in getattr(inner, "optimizers", ()):  # of a MultiOptimizer
        if part.gradient_accumulation_steps:
            raise ValueError(
                "`inner_optimizer` must not have parts that accumulate "
                "gradients, each for itself. Received: a MultiOptimizer with "
                f"{type(part).__name__}(gradient_accumulation_steps="
                f"{part.gradient_accumulation_steps})"
            )
    if inner.loss_scale_factor is not None:
        raise ValueError(
            "`inner_optimizer` must not scale the loss: give `initial_scale` "
            "to LossScaleOptimizer instead. Received: loss_scale_factor="
            f"{inner.loss_scale_factor}"
        )
    return inner


def _named(name: str) -> Any:
    try:
        return keras.optimizers.get(name)
    except ValueError as error:
        raise ValueError(
            "`inner_optimizer` must be a Keras optimizer or its name. "
            f"Received: {name!r}"
        ) from error
