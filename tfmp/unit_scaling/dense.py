"""`Dense`, `EinsumDense` and `Embedding` with unit scaling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfmp import layers, ops
from tfmp._keras import layer_builds, layer_parts
from tfmp._support import checks
from tfmp.ops import operand_arguments
from tfmp.unit_scaling import activations, rates
from tfmp.unit_scaling.scale import scale_backward, scale_forward

if TYPE_CHECKING:
    from tfmp.layers.contraction import Float8Contraction as Base
else:
    Base = object


class UnitScaled(Base):
    """Mixin for a layer of one kernel; put it before the class of tfmp.layers.

    Attributes:
        readout: whether the layer is the last one of its model.
    """

    readout = False
    is_plain_product = False

    @layer_builds.of_present_class
    def build(self, input_shape: Any) -> None:
        """Creates the variables, and notes their learning rates."""
        super().build(input_shape)
        self.note_rates()

    def note_rates(self) -> None:
        """Notes the learning rates of kernel and bias."""
        fan_in, _ = self._fans()
        factor = 1.0 if self.readout else fan_in**-0.5
        inside = not self.readout
        kernel = layer_parts.stored_kernel(self)
        rates.note(kernel, rates.Rate(factor, inside))
        rates.note(self.bias, rates.Rate(1.0, inside))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Multiplies with the factors, adds the bias, and activates."""
        x = self.in_compute_dtype(operand_arguments.operand("inputs", inputs))
        fan_in, fan_out = self._fans()
        rows = scale_of_sum(tf.size(x) // self._shared_with_inputs())
        x = scale_backward(x, fan_out**-0.5)
        y = self._product(
            x, scale_backward(self.uncast_kernel(), rows), training
        )
        y = scale_forward(y, fan_in ** (-1.0 if self.readout else -0.5))
        if self.bias is not None:
            y += scale_backward(tf.convert_to_tensor(self.bias), rows)
        return y if self.activation is None else self.activation(y)

    def _product(
        self, x: tf.Tensor, kernel: tf.Tensor, training: bool | None
    ) -> Any:
        equation = self.contraction_equation
        if self.recipe is None:
            return keras.ops.einsum(equation, x, tf.cast(kernel, x.dtype))
        return ops.einsum(equation, x, kernel, **self.float8_options(training))

    def _fans(self) -> tuple[int, int]:
        """Returns fan in and fan out: what the products sum over."""
        inputs, kernel, outputs = self._labels()
        sizes = dict(zip(kernel, self._kernel_shape(), strict=True))
        return (
            math.prod(sizes[label] for label in sizes if label not in outputs),
            math.prod(sizes[label] for label in sizes if label not in inputs),
        )

    def _shared_with_inputs(self) -> int:
        """Returns the size of the axes that inputs and kernel both have."""
        inputs, kernel, _ = self._labels()
        pairs = zip(kernel, self._kernel_shape(), strict=True)
        return math.prod(size for label, size in pairs if label in inputs)

    def _labels(self) -> tuple[str, str, str]:
        operands, outputs = self.contraction_equation.split("->")
        inputs, kernel = operands.split(",")
        return inputs, kernel, outputs

    def _kernel_shape(self) -> tuple[int, ...]:
        return tuple(layer_parts.stored_kernel(self).shape)

    def _check_quantize_args(self, mode: str, compute_dtype: str) -> None:
        """Refuses: Keras' quantized layers have no factors."""
        raise NotImplementedError(
            f"Layer {self.name!r} has unit scaling, and Keras has no quantized "
            f"layer that has. Received: mode={mode!r}"
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "readout": self.readout}


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class Dense(UnitScaled, layers.Dense):
    """`Dense` whose products all begin with a standard deviation of 1.

        y       = x @ kernel / sqrt(fan_in) + bias     / fan_in of a readout
        dx      = dy @ kernel.T / sqrt(fan_out)
        dkernel = x.T @ dy      / sqrt(rows of x)

    and the gradient of the bias as that of the kernel.  The kernel begins with
    a standard deviation of 1, so every operand of the three products has one:
    under `Policy("mixed_float8", "static")` none needs a scale.

    Gradients of a residual branch are exact up to one factor, as the fans of
    its layers cancel out: it ends with the width that it begins with.

    Args:
        units: how many outputs.
        activation: a function or its name; relu, gelu and silu are those of
            `tfmp.unit_scaling`.
        readout: whether it is the last layer, whose outputs get smaller as the
            model gets wider.
        **kwargs: those of `keras.layers.Dense`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2407.17465, table 2; arXiv 2502.05967, section 3.

    >>> layer = Dense(4, kernel_initializer="ones")
    >>> layer(keras.ops.ones([1, 16])).numpy().tolist()
    [[4.0, 4.0, 4.0, 4.0]]
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        *,
        readout: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("kernel_initializer", rates.unit_normal())
        super().__init__(units, activations.get(activation), **kwargs)
        self.readout = checks.boolean("readout", readout)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class EinsumDense(UnitScaled, layers.EinsumDense):
    """`EinsumDense` whose products all begin with a standard deviation of 1.

        y       = einsum(equation, x, kernel) / sqrt(fan_in)
        dx      = its gradient                / sqrt(fan_out)
        dkernel = its gradient                / sqrt(rows of x)

    where fan in and fan out are the sizes of the kernel's axes that the
    equation sums over, forwards and backwards.  Else it is as
    `tfmp.unit_scaling.Dense`.

    Args:
        equation: as of `keras.layers.EinsumDense`.
        output_shape: the same.
        activation: as of `tfmp.unit_scaling.Dense`.
        readout: the same.
        **kwargs: those of `keras.layers.EinsumDense`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2407.17465, table 2.

    >>> layer = EinsumDense("abc,cde->abde", (None, 2, 4))
    >>> layer(keras.ops.ones([1, 3, 16])).shape
    TensorShape([1, 3, 2, 4])
    """

    def __init__(
        self,
        equation: str,
        output_shape: Any,
        activation: Any = None,
        *,
        readout: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("kernel_initializer", rates.unit_normal())
        activation = activations.get(activation)
        super().__init__(equation, output_shape, activation, **kwargs)
        self.readout = checks.boolean("readout", readout)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class Embedding(keras.layers.Embedding):
    """`Embedding` whose vectors and gradient have a standard deviation of 1.

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
        rates.note(self._embeddings, rates.Rate(self.output_dim**-0.5))

    def call(self, inputs: Any) -> tf.Tensor:
        """Looks vectors up; the factor is that of their gradient."""
        x = super().call(inputs)
        places = tf.size(x) // self.output_dim
        return scale_backward(x, self.input_dim**0.5 * scale_of_sum(places))


def scale_of_sum(terms: Any) -> tf.Tensor:
    """Returns the factor of a sum, `1 / sqrt(terms)`, as float32."""
    return tf.math.rsqrt(tf.cast(tf.maximum(terms, 1), tf.float32))
