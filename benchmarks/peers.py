"""What FP8 is in other libraries, done in float32 on any machine.

A contraction with scales, in float32:

    q(x)     = cast(clip(x * s, -max, max), FP8) / s
    y        = einsum(equation, q(x), q(kernel))
    d_inputs = einsum(..., q(d_y), q(kernel))
    d_kernel = einsum(..., q(x), q(d_y))

with `s = max / amax`, of the whole tensor or of each row along what is
contracted, rounded down to a power of two or not.  Products of two FP8 numbers
are exact in float32, so that only the order of sums differs from a GPU's.

    torchao tensorwise   E4M3, gradients E5M2, scales of a tensor, not rounded
    torchao rowwise      E4M3, scales of a row, rounded to powers of two

(torchao/float8/config.py, `Float8LinearRecipeName`.)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfmp import formats
from tfmp._keras import call_context

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How a contraction is rounded; None: not at all.

    Attributes:
        inputs: format of the inputs, forwards.
        kernel: format of the kernel, forwards.
        backward: format of inputs and kernel, backwards.
        grads: format of the outputs' gradient.
        rows: whether each row has a scale, along what is contracted.
        powers: whether scales are powers of two.
    """

    inputs: str | None = "float8_e4m3fn"
    kernel: str | None = "float8_e4m3fn"
    backward: str | None = "float8_e4m3fn"
    grads: str | None = "float8_e5m2"
    rows: bool = False
    powers: bool = False


TENSORWISE = Arithmetic()
ROWWISE = Arithmetic(grads="float8_e4m3fn", rows=True, powers=True)


def rounded(
    x: tf.Tensor, name: str | None, axes: list[int] | None, powers: bool
) -> tf.Tensor:
    """Returns a tensor rounded to FP8 and back, in float32.

    Args:
        x: float tensor.
        name: of the format, None for none.
        axes: that share a scale; None: all.
        powers: whether scales are powers of two.
    """
    x = tf.cast(x, tf.float32)
    if name is None:
        return x
    largest = formats.get(name).max
    amax = tf.reduce_max(tf.abs(x), axis=axes, keepdims=True)
    scale = largest / tf.maximum(amax, 1e-12)
    if powers:
        exponent = tf.floor(tf.math.log(scale) / tf.math.log(2.0) + 1e-6)
        scale = tf.pow(2.0, exponent)
    clipped = tf.clip_by_value(x * scale, -largest, largest)
    return tf.cast(tf.cast(clipped, name), tf.float32) / scale


def einsum(
    equation: str, inputs: tf.Tensor, kernel: tf.Tensor, how: Arithmetic
) -> tf.Tensor:
    """Contracts inputs with a kernel, in another library's arithmetic.

    Args:
        equation: of `tf.einsum`, with letters alone or leading "...".
        inputs: of the compute dtype.
        kernel: as it is stored.
        how: the arithmetic.

    Returns:
        The outputs, in the dtype of the inputs.
    """
    left, right, out = _letters(equation, inputs.shape.rank)

    def product(
        equation: tuple[str, str, str],
        tensors: tuple[tf.Tensor, tf.Tensor],
        names: tuple[str | None, str | None],
    ) -> tf.Tensor:
        *given, result = equation
        rounds = []
        for letters, x, name in zip(given, tensors, names, strict=True):
            axes = [i for i, c in enumerate(letters) if c not in result]
            axes = axes if how.rows else list(range(len(letters)))
            rounds.append(rounded(x, name, axes, how.powers))
        return tf.einsum(f"{given[0]},{given[1]}->{result}", *rounds)

    @tf.custom_gradient
    def run(x: tf.Tensor, w: tf.Tensor) -> tuple[tf.Tensor, Any]:
        y = product((left, right, out), (x, w), (how.inputs, how.kernel))

        def grad(d_y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            d_x = product(
                (out, right, left), (d_y, w), (how.grads, how.backward)
            )
            d_w = product(
                (left, out, right), (x, d_y), (how.backward, how.grads)
            )
            return tf.cast(d_x, x.dtype), tf.cast(d_w, w.dtype)

        return tf.cast(y, x.dtype), grad

    return run(inputs, kernel)


def _letters(equation: str, rank: int) -> tuple[str, str, str]:
    """Returns the three terms, with letters in place of "..."."""
    given, out = equation.split("->")
    left, right = given.split(",")
    open_axes = rank - len(left.replace("...", ""))
    free = "".join(c for c in "uvwxyz" if c not in equation)[:open_axes]
    left, right, out = (
        term.replace("...", free) for term in (left, right, out)
    )
    return left, right, out


class Peer(Base):
    """Mixin for a Keras layer that contracts in another arithmetic."""

    arithmetic: Arithmetic
    contraction = "...a,ab->...b"

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Contracts, adds the bias and applies the activation."""
        with call_context.uncast():
            kernel = tf.convert_to_tensor(self.kernel)
        inputs = tf.cast(inputs, self.compute_dtype)
        x = einsum(self.contraction, inputs, kernel, self.arithmetic)
        if self.bias is not None:
            x = keras.ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)


class PeerDense(Peer, keras.layers.Dense):
    """`Dense` in another library's arithmetic."""


class PeerEinsumDense(Peer, keras.layers.EinsumDense):
    """`EinsumDense` in another library's arithmetic."""

    @property
    def contraction(self) -> str:
        """The layer's own equation."""
        return self.equation


def become(layer: keras.Layer, how: Arithmetic) -> None:
    """Has a layer contract in another arithmetic, in place."""
    dense = isinstance(layer, keras.layers.Dense)
    layer.__class__ = PeerDense if dense else PeerEinsumDense
    layer.arithmetic = how
