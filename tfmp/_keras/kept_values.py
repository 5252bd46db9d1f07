"""What variables hold, kept in the host's memory to be given back."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfmp._keras import replicas


class KeptValues:
    """The values of variables at one moment, on every replica, bit for bit.

    Args:
        model: whose strategy the variables are of.
        variables: any number.
    """

    def __init__(
        self, model: keras.Model, variables: Sequence[keras.Variable]
    ) -> None:
        self._model, self._variables = model, list(variables)
        self._values = [
            [np.array(part.numpy()) for part in replicas.parts(model, variable)]
            for variable in self._variables
        ]

    def restore(self, onto: Sequence[keras.Variable] | None = None) -> None:
        """Gives the values back.

        Args:
            onto: variables of the same shapes that have taken the place of
                those that the values are of; None for these.
        """
        variables = self._variables if onto is None else onto
        for variable, values in zip(variables, self._values, strict=True):
            parts = replicas.parts(self._model, variable)
            for part, value in zip(parts, values, strict=True):
                part.assign(value)
