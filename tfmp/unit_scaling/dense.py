"""`Dense` and `Embedding` with unit scaling."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfmp import layers, ops
from tfmp._keras import layer_builds
from tfmp._support import checks
from tfmp.unit_scaling import factors, rates
from tfmp.unit_scaling.gradient_scaling import scale_backward, scale_forward


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class Dense(layers.Dense):
    """`Dense` whose result and gradients keep a standard deviation of 1.

        y       = x @ kernel  / sqrt(fan_in)        / fan_in of a readout
        dx      = dy @ kernel.T / sqrt(fan_out)
        dkernel = x.T @ dy / sqrt(rows of x)

    and the gradient of the bias as that of the kernel.  The kernel begins with
    a standard deviation of 1, so that every operand of the three products has
    one: under `Policy("mixed_float8", "static")` they need no scale.

    Args:
        units: how many outputs.
        readout: whether this is the last layer, whose outputs get smaller as
            the model gets wider.
        constraint: None, or `"to_output_scale"`, by which `dx` has the factor
            of `y`: exact gradients, where a branch has another width at its
            end than at its beginning, and is added to something.
        depth: how many residual branches the model has, if the layer is in
            one: divides its learning rate by the root.
        **kwargs: those of `keras.layers.Dense`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2407.17465, table 2; arXiv 2502.05967, section 3.

    >>> layer = Dense(4, use_bias=False)
    >>> layer(keras.ops.ones([2, 16])).shape
    TensorShape([2, 4])
    """

    def __init__(
        self,
        units: int,
        readout: bool = False,
        constraint: str | None = None,
        depth: int = 1,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("kernel_initializer", rates.unit_normal())
        super().__init__(units, **kwargs)
        self.readout = checks.boolean("readout", readout)
        self.constraint = factors.checked(constraint)
        self.depth = checks.integer("depth", depth, 1)

    @layer_builds.of_present_class
    def build(self, input_shape: Any) -> None:
        """Creates the variables, and notes their learning rates."""
        super().build(input_shape)
        own = 1.0 if self.readout else self._fan_in**-0.5
        rates.note(self._kernel, own * self.depth**-0.5)
        if self.bias is not None:
            rates.note(self.bias, self.depth**-0.5)

    @property
    def _fan_in(self) -> int:
        found: int = self._kernel.shape[0]
        return found

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Multiplies with the factors, adds the bias, and activates."""
        power = 1.0 if self.readout else 0.5
        output, gradient = factors.constrained(
            self.constraint, self._fan_in**-power, self.units**-0.5
        )
        x = scale_backward(self.in_compute_dtype(inputs), gradient)
        parameters = _per_row(x)
        y = scale_forward(self._product(x, parameters, training), output)
        if self.bias is not None:
            bias = tf.convert_to_tensor(self.bias)
            y += scale_backward(bias, parameters)
        return y if self.activation is None else self.activation(y)

    def _product(
        self, x: tf.Tensor, parameters: Any, training: bool | None
    ) -> tf.Tensor:
        kernel = scale_backward(self.uncast_kernel(), parameters)
        if self.recipe is None:
            return keras.ops.matmul(x, tf.cast(kernel, x.dtype))
        options = self.float8_options(training)
        return ops.einsum(self.contraction_equation, x, kernel, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        own = {
            "readout": self.readout,
            "constraint": self.constraint,
            "depth": self.depth,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class Embedding(keras.layers.Embedding):
    """`Embedding` whose values and gradient have a standard deviation of 1.

        dembeddings = (sum over the places of a token) * sqrt(tokens / places)

    Args:
        input_dim: how many tokens there are.
        output_dim: the size of a vector.
        **kwargs: those of `keras.layers.Embedding`.

    Source: arXiv 2407.17465, table 2 and appendix B.

    >>> Embedding(8, 4)(keras.ops.zeros([2, 3], "int32")).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, input_dim: int, output_dim: int, **kwargs: Any) -> None:
        kwargs.setdefault("embeddings_initializer", rates.unit_normal())
        super().__init__(input_dim, output_dim, **kwargs)

    @layer_builds.of_present_class
    def build(self, input_shape: Any = None) -> None:
        """Creates the variable, and notes its learning rate."""
        super().build(input_shape)
        rates.note(self._embeddings, self.output_dim**-0.5)

    def call(self, inputs: Any) -> tf.Tensor:
        """Looks vectors up; the factor is that of their gradient."""
        x = super().call(inputs)
        return scale_backward(x, self.input_dim**0.5 * _per_row(x))


def _per_row(x: tf.Tensor) -> tf.Tensor:
    """Returns `1 / sqrt(how many vectors x has)`, float32."""
    rows = tf.size(x) // tf.shape(x)[-1]
    return tf.math.rsqrt(tf.cast(tf.maximum(rows, 1), tf.float32))
