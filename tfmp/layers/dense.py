"""`Dense` and `EinsumDense` on FP8 operands."""

from __future__ import annotations

from typing import Any

import keras

from tfmp._keras import layer_builds
from tfmp.layers.contraction import Float8Contraction


@keras.saving.register_keras_serializable("tfmp")
class Dense(Float8Contraction, keras.layers.Dense):
    """Keras' `Dense`, whose products run on FP8 operands.

        y = activation(q(x * sx) @ q(kernel * sw) / (sx * sw) + bias)

    under a policy with a recipe, such as `mixed_float8`; under any other
    policy it is the Keras layer, bit for bit.

    Args:
        *args: those of `keras.layers.Dense`.
        dtype: a policy or its name, also `"mixed_float8"`.
        **kwargs: those of `keras.layers.Dense`.

    Source: arXiv 2209.05433, section 3 (which operands are FP8).

    >>> layer = Dense(4, dtype="mixed_float8")
    >>> layer(keras.ops.ones([2, 8])).dtype
    tf.bfloat16
    >>> layer.amax.shape
    TensorShape([3])
    """

    @layer_builds.of_present_class
    def build(self, input_shape: Any) -> None:
        """Creates the variables; Keras' Dense forgets `lora_alpha` there."""
        lora_alpha = self.lora_alpha
        super().build(input_shape)
        self.lora_alpha: Any = lora_alpha

    @property
    def contraction_equation(self) -> str:
        """The last axis of the inputs with the first of the kernel."""
        return "...a,ab->...b"


@keras.saving.register_keras_serializable("tfmp")
class EinsumDense(Float8Contraction, keras.layers.EinsumDense):
    """Keras' `EinsumDense`, whose products run on FP8 operands.

        y = activation(
            einsum(equation, q(x * sx), q(kernel * sw)) / (sx * sw) + bias)

    under a policy with a recipe, such as `mixed_float8`; under any other
    policy it is the Keras layer, bit for bit.

    Args:
        *args: those of `keras.layers.EinsumDense`.
        dtype: a policy or its name, also `"mixed_float8"`.
        **kwargs: those of `keras.layers.EinsumDense`.

    >>> layer = EinsumDense("abc,cd->abd", (None, 4), dtype="mixed_float8")
    >>> layer(keras.ops.ones([2, 3, 8])).shape
    TensorShape([2, 3, 4])
    """

    @property
    def contraction_equation(self) -> str:
        """The layer's own equation."""
        found: str = self.equation
        return found
