"""An optimizer's variables: one in another's place, and what they count.

Keras' optimizers take no variables once they are built, and do not say where
an accumulation of gradients stands.  A conversion changes how many layers the
amax history is of.  `tests/test_loss_scale_state.py` and
`tests/test_precision_scheduler.py` tell.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras.src.utils import tracking


def replace_variable(
    optimizer: keras.optimizers.Optimizer,
    old: keras.Variable,
    new: keras.Variable,
) -> None:
    """Puts a variable of an optimizer into the place of another one.

    In a new list: TensorFlow saves none that was changed within.
    """
    tracker = optimizer._tracker
    kept = [v for v in optimizer._variables if v is not new]
    kept[[v is old for v in kept].index(True)] = new
    tracker.stored_ids["variables"].remove(id(old))
    tracker.stored_ids["variables"].add(id(new))
    with tracking.DotNotTrackScope():  # a tracked list would track without end
        optimizer._variables = kept
    is_variable, _ = tracker.config["variables"]
    tracker.config["variables"] = (is_variable, optimizer._variables)


def starts_accumulation(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns whether the next step is the first that goes into an update.

    True without gradient accumulation, else a bool scalar tensor.
    """
    steps = optimizer.gradient_accumulation_steps
    if not steps:
        return True
    taken = tf.convert_to_tensor(optimizer._iterations)
    return tf.equal(taken % steps, 0)


def of_optimizer(
    optimizer: keras.optimizers.Optimizer, variable: Any
) -> keras.Variable:
    """Returns the Keras variable of what an update step is given.

    That is one of TensorFlow where Keras' optimizer has a step of its own for
    a strategy.
    """
    at = optimizer._get_variable_index(variable)
    return optimizer._trainable_variables[at]
