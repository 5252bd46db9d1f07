"""`Conv1D`, `Conv2D` and `Conv3D` on FP8 operands."""

from __future__ import annotations

from typing import Any

import keras

from tfmp import ops, recipes
from tfmp._core.convolutions import Convolution
from tfmp.layers.contraction import Float8Layer
from tfmp.ops import geometry


class Float8Convolution(Float8Layer):
    """Mixin for a layer that is one convolution, a bias and an activation.

    What belongs to Keras' layers stays in their `call`; only the convolution
    itself is another operator.
    """

    @property
    def recipe(self) -> recipes.Recipe | None:
        """The recipe that the layer's policy has, in a convolution's format."""
        recipe = super().recipe
        return None if recipe is None else recipe.in_one_format()

    @property
    def _recipe(self) -> Any:
        return super()._recipe.in_one_format()

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """The kernel's last axis, of filters."""
        return (self.rank + 1,)

    @property
    def axes_behind(self) -> int:
        """How many axes of the outputs are behind the channels."""
        return self.rank if self.data_format == "channels_first" else 0

    def call(self, inputs: Any) -> Any:
        """Convolves, adds the bias and applies the activation."""
        return self.for_inference(super().call(inputs))

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves; the `kernel` that Keras passes has lost precision."""
        if self.recipe is None:
            return super().convolution_op(inputs, kernel)
        outputs = ops.conv(
            self.in_compute_dtype(inputs),
            self.operand(),
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            **self.float8_options(),
        )
        return self.unscaled(outputs)

    def float8_products(self, input_shape: Any) -> dict[str, str | None]:
        """Says why a product does not have FP8 operands; None if it has.

        Args:
            input_shape: of the inputs, with the batch; None for an unknown
                length.

        Returns:
            A reason, or None, for each of `"output"`, `"input_grad"` and
            `"kernel_grad"`.
        """
        first = self.data_format == "channels_first"
        lengths = input_shape[2:] if first else input_shape[1:-1]
        found = Float8Convolution.as_convolution(self, input_shape)
        return found.float8_products(lengths)

    def as_convolution(self, input_shape: Any) -> Convolution:
        """Returns its geometry for inputs of a shape.

        Args:
            input_shape: as for `float8_products`.
        """
        first = self.data_format == "channels_first"
        channels = input_shape[1 if first else -1]
        kernel = (*self.kernel_size, channels // self.groups, self.filters)
        return geometry.convolution(
            input_shape,
            kernel,
            self.strides,
            self.padding,
            self.data_format,
            self.dilation_rate,
        )


@keras.saving.register_keras_serializable("tfmp")
class Conv1D(Float8Convolution, keras.layers.Conv1D):
    """Keras' `Conv1D`, whose products run on FP8 operands.

        y = activation(conv(q(x * sx), q(kernel * sw)) / (sx * sw) + bias)

    under a policy with a recipe, such as `mixed_float8`; under any other
    policy it is the Keras layer, bit for bit.  All operands are E4M3, and
    products that GPUs have no FP8 kernel for stay in the compute dtype, as
    `float8_products` tells.

    Args:
        *args: those of `keras.layers.Conv1D`.
        dtype: a policy or its name, also `"mixed_float8"`.
        **kwargs: those of `keras.layers.Conv1D`.

    Source: arXiv 2209.05433, section 3 (which operands are FP8).

    >>> layer = Conv1D(32, 3, padding="causal", dtype="mixed_float8")
    >>> layer(keras.ops.ones([2, 9, 16])).shape
    TensorShape([2, 9, 32])
    """

    def call(self, inputs: Any) -> Any:
        """Convolves, adds the bias and applies the activation."""
        if self.recipe is None:
            return super().call(inputs)
        # Keras' Conv1D pads and convolves on its own; its base class asks
        # `convolution_op`, which knows causal padding.
        outputs = super(keras.layers.Conv1D, self).call(inputs)
        return self.for_inference(outputs)


@keras.saving.register_keras_serializable("tfmp")
class Conv2D(Float8Convolution, keras.layers.Conv2D):
    """Keras' `Conv2D`, whose products run on FP8 operands; see `Conv1D`.

    Args:
        *args: those of `keras.layers.Conv2D`.
        dtype: a policy or its name, also `"mixed_float8"`.
        **kwargs: those of `keras.layers.Conv2D`.

    >>> layer = Conv2D(16, 3, dtype="mixed_float8")
    >>> layer.float8_products([None, 32, 32, 3])["output"]
    'channels / groups = 3 is not a multiple of 16'
    """


@keras.saving.register_keras_serializable("tfmp")
class Conv3D(Float8Convolution, keras.layers.Conv3D):
    """Keras' `Conv3D`, whose products run on FP8 operands; see `Conv1D`.

    Args:
        *args: those of `keras.layers.Conv3D`.
        dtype: a policy or its name, also `"mixed_float8"`.
        **kwargs: those of `keras.layers.Conv3D`.

    >>> layer = Conv3D(16, 3, dtype="mixed_float8")
    >>> layer(keras.ops.ones([1, 4, 4, 4, 16])).dtype
    tf.bfloat16
    """
