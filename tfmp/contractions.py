"""The three FP8 products of a contraction, as one differentiable operator.

For `y = x @ w` (any einsum of two operands works alike):

    y  = (q(x)  . q(w)) / (sx * sw)        output
    dx = (q(dy) . q(w)) / (sdy * sw)       input_grad
    dw = (q(x)  . q(dy)) / (sx * sdy)      kernel_grad

where `q` quantizes with the role's scale.  `x` and `w` are quantized once;
the backward pass keeps the FP8 copies.  The product's result is the compute
dtype and its scale is applied there, which XLA folds into the GEMM.  What the
dot stands for is a value: an `equations.Contraction` or a
`convolutions.Convolution`, which names its three products.

Delayed scaling takes its amax from the argument `amax`, a float32 tensor of
shape `[3]` for inputs, kernel and grads.  The *gradient* of `amax` is what
this step observed, so that an optimizer, or the caller's own tape, gets it
together with the other gradients.

Forward and backward are each one XLA-compiled function, also when the model
around them is not compiled.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

import tensorflow as tf

from tfmp import equations, quantization, recipes, scaling, stablehlo, windows

COMPUTE_DTYPES = (tf.bfloat16, tf.float16, tf.float32)


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


class Scales(NamedTuple):
    """What is known before a tensor is seen: scalars of delayed scaling.

    Attributes:
        scales: of each role.
        factors: what undoes the scales of each product's operands.
    """

    scales: dict[str, tf.Tensor]
    factors: dict[str, tf.Tensor]


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass."""

    inputs: Operand
    kernel: Operand
    scales: Scales


def contract(
    contraction: Bilinear,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recipe: recipes.Recipe,
    amax: tf.Tensor,
    training: bool,
) -> tf.Tensor:
    """Contracts two tensors by a recipe; see the module's docstring.

    Args:
        contraction: what multiplies `inputs` and `kernel`.
        inputs: float32, bfloat16 or float16 tensor.
        kernel: the same, of any of these dtypes.
        recipe: formats and scaling of the roles.
        amax: float32 of shape `[3]`; entries that are zero or not finite
            count as not observed yet.
        training: whether observations come back to `amax`.  Then inputs and
            gradients without one use a prior; otherwise, and the kernel
            always, a role without one uses its tensor's own amax.

    Returns:
        Tensor of the dtype of `inputs`.
    """
    shapes = (*inputs.shape, *kernel.shape)
    forward, backward = _compiled(contraction, recipe, training, shapes)

    @tf.custom_gradient
    def run(
        inputs: tf.Tensor, kernel: tf.Tensor, amax: tf.Tensor
    ) -> tuple[tf.Tensor, Callable]:
        # Eager mode records what runs here too, but forward has no gradient.
        tensors = map(tf.stop_gradient, (inputs, kernel, amax))
        result, saved, observed = forward(*tensors)
        kernel_dtype = kernel.dtype  # grad() must not keep the kernel

        def grad(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # Into the gradient's graph: calling a compiled function captures
            # as XLA does, which the gradient of `tf.cond` cannot resolve.
            kept = tf.nest.map_structure(_identity, (saved, amax, observed))
            d_inputs, d_kernel, grads_amax = backward(upstream, *kept[:2])
            d_amax = tf.stack([*kept[2], grads_amax])
            d_kernel = tf.cast(d_kernel, kernel_dtype)
            return _differentiated_once(d_inputs, d_kernel, d_amax)

        return result, grad

    return run(inputs, kernel, amax)


@functools.lru_cache(maxsize=4096)
def _compiled(
    contraction: Bilinear, recipe: recipes.Recipe, training: bool, shapes: tuple
) -> tuple[Callable, Callable]:
    # By `shapes`: a trace for unknown lengths would serve known, and lose them.
    program = _Program(contraction, recipe, training)
    compiled = functools.partial(tf.function, autograph=False, jit_compile=True)
    return compiled(program.forward), compiled(program.backward)


@dataclasses.dataclass(frozen=True)
class _Program:
    """The forward and backward pass of one kind of contraction."""

    contraction: Bilinear
    recipe: recipes.Recipe
    training: bool

    def forward(
        self, inputs: tf.Tensor, kernel: tf.Tensor, amax: tf.Tensor
    ) -> tuple[tf.Tensor, Saved, list[tf.Tensor]]:
        """Returns the result, what backward needs, and the two amax seen."""
        wide = Operand(inputs), Operand(tf.cast(kernel, inputs.dtype))
        scales = self.delayed_scales(amax, scaling.amax(kernel))
        low_inputs, inputs_amax = self.quantize("inputs", inputs, amax, scales)
        low_kernel, kernel_amax = self.quantize("kernel", kernel, amax, scales)

        def operands(product: str) -> tuple[Operand, Operand]:
            low = self.recipe.in_float8(product)
            return (low_inputs, low_kernel) if low else wide

        result = self.product(
            "output", *operands("output"), inputs.dtype, scales
        )
        saved = Saved(
            _pack(operands("kernel_grad")[0]),
            _pack(operands("input_grad")[1]),
            scales,
        )
        return result, saved, [inputs_amax, kernel_amax]

    def backward(
        self, upstream: tf.Tensor, saved: Saved, amax: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the gradients of inputs and kernel, and upstream's amax."""
        inputs = _unpack(saved.inputs, self.recipe.format("inputs").dtype)
        kernel = _unpack(saved.kernel, self.recipe.format("kernel").dtype)
        scales = saved.scales
        low, observed = self.quantize("grads", upstream, amax, scales)

        def grads(product: str) -> Operand:
            return low if self.recipe.in_float8(product) else Operand(upstream)

        d_inputs = self.product(
            "input_grad", grads("input_grad"), kernel, upstream.dtype, scales
        )
        d_kernel = self.product(
            "kernel_grad", inputs, grads("kernel_grad"), upstream.dtype, scales
        )
        # A tape around would look for the gradients of what runs in here.
        return tuple(map(tf.stop_gradient, (d_inputs, d_kernel, observed)))

    def delayed_scales(self, amax: tf.Tensor, kernel_amax: tf.Tensor) -> Scales:
        """Computes the scalars that need not see an activation.

        A kernel that no step has observed is there to be looked at.  The
        barrier has XLA compute all scalars in one kernel; otherwise each
        product repeats the arithmetic and slices `amax` again.
        """
        seen = {"kernel": kernel_amax}
        exponents = {
            role: self.exponent(role, self.assumed(role, amax, seen.get(role)))
            for role in recipes.ROLES
            if self.training
            and self.recipe.is_delayed(role)
            and self.recipe.quantizes(role)
        }
        factors = {
            product: scaling.exp2(-exponents[lhs] - exponents[rhs])
            for product, (lhs, rhs) in recipes.OPERANDS.items()
            if lhs in exponents and rhs in exponents
        }
        scales = {role: scaling.exp2(e) for role, e in exponents.items()}
        known = Scales(scales, factors)
        if not scales:
            return known
        flat = stablehlo.barrier(*tf.nest.flatten(known))
        return tf.nest.pack_sequence_as(known, flat)

    def assumed(
        self, role: str, amax: tf.Tensor, observed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the amax of delayed scaling for a role."""
        target = self.recipe.format(role)
        return scaling.assumed_amax(amax, role, target, observed)

    def exponent(self, role: str, amax: tf.Tensor) -> tf.Tensor:
        """Returns the exponent of the role's scale for an amax."""
        target = self.recipe.format(role)
        return scaling.scale_exponent(amax, target, self.recipe.margin)

    def quantize(
        self, role: str, x: tf.Tensor, amax: tf.Tensor, scales: Scales
    ) -> tuple[Operand, tf.Tensor]:
        """Returns the role's FP8 operand and its observed amax."""
        if not self.recipe.quantizes(role):
            return Operand(x), tf.constant(0.0)
        observed = scaling.amax(x)
        scale = scales.scales.get(role)
        if scale is None:
            assumed = observed
            if self.recipe.is_delayed(role):
                assumed = self.assumed(role, amax, observed)
            scale = scaling.exp2(self.exponent(role, assumed))
        low = quantization.quantize(x, scale, self.recipe.format(role))
        return Operand(low, scale), observed

    def product(
        self,
        name: str,
        lhs: Operand,
        rhs: Operand,
        dtype: tf.DType,
        scales: Scales,
    ) -> tf.Tensor:
        """Multiplies, removes both scales, and orders the axes.

        Gradients ask for full accumulation in float32.
        """
        product = self.contraction.product(name)
        result = stablehlo.multiply(
            product, lhs.value, rhs.value, _wide(dtype), name != "output"
        )
        if lhs.scale is not None and rhs.scale is not None:
            factor = scales.factors.get(name)
            if factor is None:
                factor = tf.minimum((1 / lhs.scale) * (1 / rhs.scale), 2.0**127)
            result *= tf.cast(factor, result.dtype)
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


def _identity(x: tf.Tensor | None) -> tf.Tensor | None:
    return None if x is None else tf.identity(x)


def _differentiated_once(*gradients: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Raises where a second derivative, or `jvp`, would be silently zero."""
    message = "a product on FP8 operands has no second-order gradient"
    return tuple(
        tf.raw_ops.PreventGradient(input=g, message=message) for g in gradients
    )


def _wide(dtype: tf.DType) -> tf.DType:
    """float16 has room neither for the factor nor for the scaled product."""
    return tf.float32 if dtype == tf.float16 else dtype
