"""Optimizers that give each variable the learning rate of its layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfmp._keras import optimizer_variables
from tfmp._support import checks
from tfmp.unit_scaling import rates
from tfmp.unit_scaling.rates import Rate

if TYPE_CHECKING:
    from keras.optimizers import Optimizer as Base
else:
    Base = object


class RateByLayer(Base):
    """Mixin for a Keras optimizer; put it before the Keras class.

    The learning rate of a variable is that of the optimizer times

        1 / sqrt(fan_in * depth)    kernel
        1 / sqrt(depth)             bias
        1 / sqrt(output_dim)        embedding
        1                           kernel and bias of a readout, all other

    the rules by which one of a small model is to hold for a wide and deep one.
    Weight decay is that of Keras, `learning_rate * weight_decay` of the
    optimizer, alike for all variables.

    Args:
        *args: those of the Keras class.
        depth: how many residual branches the model has, 1 if none.
        **kwargs: those of the Keras class.

    Raises:
        TypeError, ValueError: if `depth` is not allowed; at `build`, if a
            variable of two axes or more is of no layer with unit scaling.

    Source: arXiv 2407.17465, table 2.

    >>> class SGD(RateByLayer, keras.optimizers.SGD):
    ...     pass
    >>> SGD(0.5, depth=24).depth
    24
    """

    def __init__(self, *args: Any, depth: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.depth = checks.integer("depth", depth, 1)

    def build(self, variables: Any) -> None:
        """Creates the optimizer's variables, and checks those of the model."""
        said = "a list of Keras variables"
        for variable in checks.sequence(
            "variables", variables, keras.Variable, said
        ):
            if len(variable.shape) > 1 and rates.of(variable) is None:
                raise ValueError(
                    "`variables` of two axes or more must be of layers of "
                    "tfmp.unit_scaling, as others need other learning rates. "
                    f"Received: {variable.path!r}"
                )
        super().build(variables)

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Updates a variable, at its own rate."""
        known = optimizer_variables.of_optimizer(self, variable)
        rate = rates.of(known) or Rate()
        factor = rate.factor * (self.depth**-0.5 if rate.by_depth else 1.0)
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "depth": self.depth}


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class Adam(RateByLayer, keras.optimizers.Adam):
    """Keras' `Adam`, with the learning rates of `RateByLayer`.

    Args:
        *args: those of `keras.optimizers.Adam`.
        depth: as of `RateByLayer`.
        **kwargs: those of `keras.optimizers.Adam`.

    Source: arXiv 2407.17465, table 2.

    >>> float(Adam(2.0**-6).learning_rate)
    0.015625
    """


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class AdamW(RateByLayer, keras.optimizers.AdamW):
    """Keras' `AdamW`, with the learning rates of `RateByLayer`.

    Args:
        *args: those of `keras.optimizers.AdamW`.
        depth: as of `RateByLayer`.
        **kwargs: those of `keras.optimizers.AdamW`.

    Source: arXiv 2407.17465, table 2.

    >>> AdamW(2.0**-6, weight_decay=0.125).weight_decay
    0.125
    """
