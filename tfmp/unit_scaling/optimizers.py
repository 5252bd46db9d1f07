"""Optimizers that give each variable the learning rate of its layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfmp._keras import optimizer_variables
from tfmp.unit_scaling import rates

if TYPE_CHECKING:
    from keras.optimizers import Optimizer as Base
else:
    Base = object


class RateByLayer(Base):
    """Mixin for a Keras optimizer; put it before the Keras class.

    The learning rate of a variable is that of the optimizer times

        1 / sqrt(fan in)          kernel of a layer inside
        1                         kernel of a readout, bias, all other
        1 / sqrt(output_dim)      embedding

    and over the root of `depth` in a residual branch.  A rate that was found
    on a small model then holds for a wide and deep one.  Weight decay is that
    of the optimizer, alike for all.

    Source: arXiv 2407.17465, table 2.
    """

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Updates a variable, at its own rate."""
        known = optimizer_variables.of_optimizer(self, variable)
        rate = learning_rate * rates.of(known)
        super().update_step(gradient, variable, rate)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class Adam(RateByLayer, keras.optimizers.Adam):
    """Keras' `Adam`, with the learning rates of `RateByLayer`.

    Args:
        *args, **kwargs: those of `keras.optimizers.Adam`.

    Source: arXiv 2407.17465, table 2.

    >>> float(Adam(2.0**-6).learning_rate)
    0.015625
    """


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class AdamW(RateByLayer, keras.optimizers.AdamW):
    """Keras' `AdamW`, with the learning rates of `RateByLayer`.

    Args:
        *args, **kwargs: those of `keras.optimizers.AdamW`.

    Source: arXiv 2407.17465, table 2.

    >>> AdamW(2.0**-6, weight_decay=0.125).weight_decay
    0.125
    """
