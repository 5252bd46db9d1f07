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
shape `[3]` for inputs, kernel and grads.  What the step observed is handed to
`take_in` by the backward pass, and is the *gradient* of `amax`, for a caller's
own tape.

Forward and backward are each one XLA-compiled function, also when the model
around them is not compiled.  A recipe that emulates has two of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfmp import recipes
from tfmp._core import (
    custom_gradients,
    emulated_passes,
    float8_passes,
    op_names,
    probes,
)

COMPUTE_DTYPES = (tf.bfloat16, tf.float16, tf.float32)


def contract(
    contraction: float8_passes.Bilinear,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recipe: recipes.Recipe,
    amax: tf.Tensor,
    training: bool,
    probe: probes.Probe | None = None,
    take_in: Callable[[tf.Tensor], None] | None = None,
) -> tf.Tensor:
    """Contracts two tensors by a recipe; see the module's docstring.

    Args:
        contraction: what multiplies `inputs` and `kernel`.
        inputs: float32, bfloat16 or float16 tensor.
        kernel: the same, of any of these dtypes.
        recipe: formats and scaling of the roles.
        amax: float32 of shape `[3]`; entries that are zero or not finite
            count as not observed yet.
        training: whether gradients are delayed too, and inputs and gradients
            without an observation use a prior.  Otherwise gradients use their
            own amax, and so do inputs that have none; as the kernel always.
        probe: a `tfmp.ops.Probe` that takes in statistics, or None.
        take_in: what is given the amax of all roles that this step observed.

    Returns:
        Tensor of the dtype of `inputs`.
    """
    shapes = (*inputs.shape, *kernel.shape)
    forward, backward = _compiled(
        contraction,
        recipe,
        training,
        kernel.dtype,
        shapes,
        measured=probe is not None,
        elements=None if probe is None else probe.elements,
    )

    measure = _measurer(probe)

    @custom_gradients.custom_gradient
    def run(
        inputs: tf.Tensor, kernel: tf.Tensor, amax: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., Any]]:
        """Multiplies forwards, and says how backwards."""
        # Eager mode records what runs here too, but forward has no gradient.
        tensors = map(tf.stop_gradient, (inputs, kernel, amax))
        result, saved, seen = forward(*tensors)
        for role, each in zip(("inputs", "kernel"), seen, strict=True):
            measure(role, each.statistics)
        observed = [each.amax for each in seen]
        kernel_dtype = kernel.dtype  # grad() must not keep the kernel

        @op_names.gradient
        def grad(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            """Returns the gradients; that of the amax is what was seen."""
            # Into the gradient's graph: calling a compiled function captures
            # as XLA does, which the gradient of `tf.cond` cannot resolve.
            kept = tf.nest.map_structure(_identity, (saved, amax, observed))
            d_inputs, d_kernel, d_amax, measured = backward(upstream, *kept)
            measure("grads", measured)
            if take_in is not None:
                take_in(d_amax)
            d_kernel = tf.cast(d_kernel, kernel_dtype)
            return *_differentiated_once(d_inputs, d_kernel), d_amax

        return result, grad

    return run(inputs, kernel, amax)


def _measurer(
    probe: probes.Probe | None,
) -> Callable[[str, tf.Tensor | None], None]:
    """Returns what hands the statistics of a role to a probe, if it has any."""
    takers = {}
    if probe is not None:
        takers = {role: probe.taker(role) for role in recipes.ROLES}

    def measure(role: str, measured: tf.Tensor | None) -> None:
        if measured is not None:
            takers[role](measured)

    return measure


def clear_programs() -> None:
    """Forgets what operators have compiled, to give its memory back.

    The two passes of a product are compiled once for each equation, recipe,
    dtype and shape, and kept: the newest 4096.  A process that makes many
    models of different shapes can call this between two of them, beside
    `keras.utils.clear_session()`.  What is still used keeps what it has; the
    rest is compiled again when it is needed.

    >>> from tfmp import ops
    >>> ops.clear_programs()
    """
    _compiled.cache_clear()


@functools.lru_cache(maxsize=4096)
def _compiled(
    contraction: Any,
    recipe: Any,
    training: bool,
    kernel_dtype: tf.DType,
    shapes: tuple[int | None, ...],
    measured: bool = False,
    elements: int | None = None,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    # By `shapes`: a trace for unknown lengths would serve known, and lose them.
    program: Any
    if recipe.emulates:
        program = emulated_passes.Program(contraction, recipe, kernel_dtype)
    else:
        program = float8_passes.Program(
            contraction=contraction,
            recipe=recipe,
            training=training,
            kernel_dtype=kernel_dtype,
            measured=measured,
            elements=elements,
        )
    return on_xla(program.forward), on_xla(program.backward)


def on_xla(method: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a method as a function that XLA compiles."""
    # TensorFlow counts the traces of a method over all its objects, and would
    # warn of a function that is traced too often; those of a partial alone.
    own = functools.partial(method)
    vars(own)["__name__"] = method.__name__
    found: Callable[..., Any] = tf.function(
        own, autograph=False, jit_compile=True
    )
    return found


def _identity(x: tf.Tensor | None) -> tf.Tensor | None:
    return None if x is None else tf.identity(x)


def _differentiated_once(*gradients: tf.Tensor) -> list[tf.Tensor]:
    """Raises where a second derivative, or `jvp`, would be silently zero."""
    message = (
        "a product on low-precision operands has no second-order gradient; "
        "put its layer into bfloat16 for that: tfmp.set_precision(model, "
        "{path: 'mixed_bfloat16'})"
    )
    return [
        tf.raw_ops.PreventGradient(input=g, message=message) for g in gradients
    ]
