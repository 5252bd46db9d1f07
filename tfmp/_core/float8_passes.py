"""The forward and the backward pass of a contraction, as XLA compiles them.

Each is a pure function of tensors; `contractions` makes one differentiable
operator of the two, and says what is multiplied by what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import NamedTuple, Protocol

import tensorflow as tf

from tfmp import recipes
from tfmp._core import (
    equations,
    op_names,
    product_scales,
    quantization,
    scaling,
    stablehlo,
    statistics,
    unscaling,
    windows,
)


class Bilinear(Hashable, Protocol):
    """What multiplies inputs and kernel, with three products."""

    def product(self, name: str) -> equations.Contraction | windows.Window:
        """Returns `"output"`, `"input_grad"` or `"kernel_grad"`."""


class Operand(NamedTuple):
    """A factor of a product: `value / scale` is what it stands for.

    An operand in the compute dtype has no scale.
    """

    value: tf.Tensor
    scale: tf.Tensor | None = None


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass."""

    inputs: Operand
    kernel: Operand
    scales: product_scales.Scales


@dataclasses.dataclass(frozen=True)
class Program:
    """The forward and backward pass of one kind of contraction.

    Attributes:
        contraction: what is multiplied.
        recipe: formats and scaling of the roles.
        training: whether gradients are delayed too, and priors are used.
        measured: whether statistics are computed too.
        elements: how many elements of a tensor these look at, None for all.
        kernel_dtype: of the kernel, and of its gradient if that is a product
            of matrices: a GPU's kernels write it in float32 at no cost.
    """

    contraction: Bilinear
    recipe: recipes.Float8Recipe
    training: bool
    kernel_dtype: tf.DType
    measured: bool = False
    elements: int | None = None

    def forward(
        self, inputs: tf.Tensor, kernel: tf.Tensor, amax: tf.Tensor
    ) -> tuple[tf.Tensor, Saved, list[statistics.Seen]]:
        """Returns the result, what backward needs, and what was seen."""
        wide = Operand(inputs), Operand(tf.cast(kernel, inputs.dtype))
        seen = {
            "inputs": self.amax("inputs", inputs),
            "kernel": self.amax("kernel", kernel),
        }
        known = product_scales.forward(
            self.recipe,
            self.training,
            amax,
            seen,
            self.factor_dtype(inputs.dtype),
        )
        low_inputs, inputs_seen = self.quantize("inputs", inputs, seen, known)
        low_kernel, kernel_seen = self.quantize("kernel", kernel, seen, known)

        def operands(product: str) -> tuple[Operand, Operand]:
            low = self.recipe.in_float8(product)
            return (low_inputs, low_kernel) if low else wide

        result = self.product(
            "output", *operands("output"), inputs.dtype, known
        )
        saved = Saved(
            _pack(operands("kernel_grad")[0]),
            _pack(operands("input_grad")[1]),
            known,
        )
        return result, saved, [inputs_seen, kernel_seen]

    def backward(
        self,
        upstream: tf.Tensor,
        saved: Saved,
        amax: tf.Tensor,
        observed: list[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """Returns the gradients of inputs and kernel, and what was seen.

        That is the amax of every role, those of inputs and kernel as they were
        `observed`; and the statistics of `upstream`, if they are measured.
        """
        inputs = _unpack(saved.inputs, self.recipe.format("inputs").dtype)
        kernel = _unpack(saved.kernel, self.recipe.format("kernel").dtype)
        own = self.amax("grads", upstream)
        known, d_amax = product_scales.backward(
            self.recipe,
            self.training,
            amax,
            tf.stack([*observed, own]),
            saved.scales,
            self.factor_dtype(upstream.dtype),
        )
        low, seen = self.quantize("grads", upstream, {"grads": own}, known)

        def grads(product: str) -> Operand:
            return low if self.recipe.in_float8(product) else Operand(upstream)

        d_inputs = self.product(
            "input_grad", grads("input_grad"), kernel, upstream.dtype, known
        )
        matrices = isinstance(self.contraction, equations.Contraction)
        dtype = self.kernel_dtype if matrices else upstream.dtype
        d_kernel = self.product(
            "kernel_grad", inputs, grads("kernel_grad"), dtype, known
        )
        # A tape around would look for the gradients of what runs in here.
        results = d_inputs, d_kernel, d_amax, seen.statistics
        found: tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor | None] = (
            tf.nest.map_structure(_stopped, results)
        )
        return found

    def factor_dtype(self, dtype: tf.DType) -> tf.DType:
        """Returns the dtype of factors, for results of a dtype.

        GPU libraries take a product of matrices with its factor in float32.  A
        batch of them they leave to what reads the result, in its dtype.
        """
        batch = getattr(self.contraction, "batch", "")
        return _wide(dtype) if batch else tf.float32

    def amax(self, role: str, x: tf.Tensor) -> tf.Tensor:
        """Returns the amax of a tensor, zero if nobody asks for it."""
        asked = self.measured or self.recipe.observes
        looks = asked and self.recipe.quantizes(role)
        return scaling.amax(x) if looks else tf.constant(0.0)

    def quantize(
        self,
        role: str,
        x: tf.Tensor,
        amax: dict[str, tf.Tensor],
        known: product_scales.Scales,
    ) -> tuple[Operand, statistics.Seen]:
        """Returns the role's FP8 operand, and what was seen of the tensor."""
        if not self.recipe.quantizes(role):
            return Operand(x), statistics.Seen(tf.constant(0.0))
        scale, observed = known.scales[role], amax[role]
        target = self.recipe.format(role)
        if self.recipe.observes:
            low = quantization.quantize(x, scale, target)
        else:  # no amax tells the optimizer of an infinity: let it be NaN
            low = quantization.quantize_finite(x, scale, target)
        vector = None
        if self.measured:
            margin, elements = self.recipe.margin, self.elements
            vector = statistics.measure(
                x, scale, target, observed, margin, elements
            )
        return Operand(low, scale), statistics.Seen(observed, vector)

    def product(
        self,
        name: str,
        lhs: Operand,
        rhs: Operand,
        dtype: tf.DType,
        known: product_scales.Scales,
    ) -> tf.Tensor:
        """Multiplies, removes both scales, and orders the axes.

        Gradients ask for full accumulation in float32.
        """
        product = self.contraction.product(name)
        with op_names.product(name):
            result = stablehlo.multiply(
                product, lhs.value, rhs.value, _wide(dtype), name != "output"
            )
        if lhs.scale is not None and rhs.scale is not None:
            result = unscaling.unscaled(
                result, known.factors[name], lhs.scale, rhs.scale
            )
            if isinstance(product, windows.Window) and not product.widen:
                # XLA would fuse what follows into the call to cuDNN: a bias
                # as a tensor of the result's size, or more than it can run.
                result = stablehlo.fence(result)
        if product.permutation != tuple(range(len(product.out))):
            result = tf.transpose(result, product.permutation)
        return tf.cast(result, dtype)


def _pack(operand: Operand) -> Operand:
    """As bytes: TensorFlow's lists, which loops keep tensors in, lack FP8."""
    if operand.scale is None:
        return operand
    return operand._replace(value=stablehlo.bitcast(operand.value, tf.uint8))


def _unpack(operand: Operand, dtype: str) -> Operand:
    if operand.scale is None:
        return operand
    value = stablehlo.bitcast(operand.value, tf.as_dtype(dtype))
    return operand._replace(value=value)


def _stopped(x: tf.Tensor | None) -> tf.Tensor | None:
    return None if x is None else tf.stop_gradient(x)


def _wide(dtype: tf.DType) -> tf.DType:
    """float16 has room neither for the factor nor for the scaled product."""
    return tf.float32 if dtype == tf.float16 else dtype
