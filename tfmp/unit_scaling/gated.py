"""The gated feed-forward layer of a Transformer, with unit scaling."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp._support import checks
from tfmp.unit_scaling import factors
from tfmp.unit_scaling.activations import silu_glu
from tfmp.unit_scaling.dense import Dense
from tfmp.unit_scaling.gradient_scaling import scale_backward


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class GatedMLP(keras.layers.Layer):
    """Three `Dense`, one of which gates another, as in Llama.

        y = Dense(silu_glu(Dense(x), Dense(x)))

    Args:
        hidden_dim: how many values are gated.
        constraint: as of `tfmp.unit_scaling.Dense`; without, the sum of the
            gradients of two `Dense` is divided by the root of 2.
        depth: the same.
        **kwargs: those of `keras.layers.Layer`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2002.05202, section 2 (SwiGLU); arXiv 2407.17465.

    >>> GatedMLP(16)(keras.ops.ones([1, 8])).shape
    TensorShape([1, 8])
    """

    def __init__(
        self,
        hidden_dim: int,
        constraint: str | None = None,
        depth: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = checks.integer("hidden_dim", hidden_dim, 1)
        self.constraint = factors.checked(constraint)
        self.depth = checks.integer("depth", depth, 1)
        self.up, self.gate = (
            self._dense(hidden_dim, name) for name in ("up", "gate")
        )
        self.down: Any = None

    def _dense(self, units: int, name: str) -> Dense:
        return Dense(
            units,
            use_bias=False,
            constraint=self.constraint,
            depth=self.depth,
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape: Any) -> None:
        """Creates the variables."""
        shape = checks.shape("input_shape", input_shape)
        for dense in (self.up, self.gate):
            dense.build(shape)
        self.down = self._dense(shape[-1], "down")
        self.down.build((*shape[:-1], self.hidden_dim))

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Gates one half by the other."""
        x = inputs
        if self.constraint is None:
            x = scale_backward(x, 2.0**-0.5)
        up, gate = (each(x, training=training) for each in (self.up, self.gate))
        return self.down(silu_glu(up, gate), training=training)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        own = {
            "hidden_dim": self.hidden_dim,
            "constraint": self.constraint,
            "depth": self.depth,
        }
        return {**super().get_config(), **own}
