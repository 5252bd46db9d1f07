"""`inspect`: what a training step or function multiplies in FP8."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfmp import hardware
from tfmp._core import op_names
from tfmp._inspection import deviceless, hlo, inspected_steps, matching, targets
from tfmp._inspection.inspection_report import InspectedProduct, Inspection
from tfmp._inspection.requested_products import LORA, Asked
from tfmp._support import checks
from tfmp.conversion.sizes import Sizes

UNKNOWN = "?"


def inspect(
    model_or_function: Any,
    *inputs: Any,
    target: str | None = None,
    batch_size: int = 32,
    length: int = 512,
) -> Inspection:
    """Returns which products of a program are in FP8, by which kernels.

        float8_share = sum(flops of products in FP8) / sum(flops of all)

    Of a model the program is its training step: forward pass, loss, and the
    gradients of all that it trains; of a function, what it computes.  It is
    traced and compiled, and not run: nothing is assigned, and the model stays
    as it is, bit for bit.

    On a GPU, the products are those of what XLA compiled for it.  Without
    one, they are those of the program that XLA is given, which says nothing
    of kernels; a CPU multiplies FP8 as bfloat16.  With a target such as
    `"h200"` the program is compiled for a GPU that need not be there, once
    with Triton's and once with cuBLASLt's kernels, between which a real one
    chooses by timing; FP8 is then what is FP8 in both.

    A product that was to be in FP8, and is not, is a fall-back: a layer's
    recipe asks for it, or XLA was given it.  What a recipe leaves out, and
    what GPUs have no kernel for, is none, and has its reason.

    Args:
        model_or_function: a Keras model or layer, built; or a function of
            tensors, which may read and assign variables.
        *inputs: arrays, tensors or `tf.TensorSpec`, or lists or dictionaries
            of such.  Of a model `x`, or `x, y`, or `x, y, sample_weight`;
            without `y` the loss is the sum of squares of the outputs, without
            `x` it is taken as the model says.  Of a function its arguments.
        target: `"h200"`, `"h100"`, `"b200"`, `"l40s"`, `"l4"` or `"rtx4090"`;
            None is this machine.
        batch_size: what to assume for an open first length.
        length: what to assume for any other open length.

    Returns:
        An `Inspection`, which prints as a table.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `target` is unknown, the model is not built or does not
            say what it takes, `y` is given and no loss is compiled, or XLA
            cannot compile it, as text and look-up tables.
        ImportError: if `target` needs JAX's CUDA plug-in; the message says
            what to install.
        RuntimeError: if the program does not compile for the target.

    A `tf.function` of the model's own has to be an attribute of a layer.
    A layer that trains the factors of LoRA has three more products, small
    and not in FP8, which are no fall-backs.

    >>> from tfmp import layers
    >>> layer = layers.Dense(8, dtype="mixed_float8")
    >>> model = keras.Sequential([keras.Input([16]), layer], name="net")
    >>> [row.operands for row in inspect(model).products]
    [('f8e4m3fn', 'f8e4m3fn'), ('f8e4m3fn', 'f8e5m2')]
    >>> inspect(lambda x: x @ x, tf.ones([16, 16])).float8_share
    0.0
    """
    if target is not None:
        checks.choice("target", target, targets.TARGETS)
    step = _step(model_or_function, inputs, Sizes(batch_size, length))
    program = _program(step, target)
    asked = Asked.of(step.layers)
    rows = [_row(fate, step, asked) for fate in program.fates]
    name = getattr(model_or_function, "name", None) or getattr(
        model_or_function, "__name__", type(model_or_function).__name__
    )
    return Inspection(
        str(name),
        program.said,
        tuple(rows),
        program.kernels,
        {mode: matching.count(program.fates, mode) for mode in program.kernels},
        program.temporary_bytes,
        program.notes,
    )


def _step(
    subject: Any, inputs: tuple[Any, ...], sizes: Sizes
) -> inspected_steps.Step:
    """Returns what is compiled, after a look at the arguments."""
    if not isinstance(subject, keras.Layer):
        if not callable(subject) or isinstance(subject, type):
            raise TypeError(
                "`model_or_function` must be a Keras model or layer, or a "
                f"function. Received: {subject!r}"
            )
        return inspected_steps.of_function(subject, inputs, sizes)
    if not subject.built:
        raise ValueError(
            "`model_or_function` must be built: call it, or build it with a "
            f"shape. Received: {subject.name!r}, which is not"
        )
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    if len(inputs) > 3:
        raise ValueError(
            "`inputs` of a model must be x, y and sample_weight at most. "
            f"Received: {len(inputs)} values"
        )
    return inspected_steps.of_model(subject, inputs, sizes)


@dataclasses.dataclass(frozen=True)
class _Program:
    """What is read: products, and what belongs to a program as a whole."""

    said: str
    fates: list[matching.Fate]
    kernels: dict[str, int] = dataclasses.field(default_factory=dict)
    temporary_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _program(step: inspected_steps.Step, target: str | None) -> _Program:
    gpus = tf.config.list_logical_devices("GPU")
    if target is not None:
        return _for_target(step, target)
    if gpus:
        return compiled_for(step, gpus[0].name)
    given = hlo.Program(step.for_accelerators("hlo")).products()
    in_float8 = any(product.is_float8 for product in given)
    return _Program(
        "the program that XLA is given; nothing is compiled for a GPU",
        matching.fates(given, {}),
        notes=(hardware.FLOAT8_ON_CPU,) if in_float8 else (),
    )


def compiled_for(step: inspected_steps.Step, device: str) -> _Program:
    """Returns what XLA compiles for a device that is here."""
    given = hlo.Program(step.text("hlo", device))
    compiled = hlo.Program(step.text("optimized_hlo", device))
    return _Program(
        f"as TensorFlow's XLA compiled it for {device}",
        matching.fates(given.products(), {"compiled": compiled}),
        {"compiled": compiled.kernels},
    )


def _for_target(step: inspected_steps.Step, target: str) -> _Program:
    program = step.for_accelerators("stablehlo")
    compiled = deviceless.compile_for(target, program)
    given = hlo.Program(step.for_accelerators("hlo"))
    programs = {m: hlo.Program(c.program) for m, c in compiled.items()}
    [version] = {each.jax for each in compiled.values()}
    note = "it reads variables: TensorFlow's part was lowered for the CPU"
    return _Program(
        f"as the XLA of JAX {version} compiles it for {target}, not run",
        matching.fates(given.products(), programs),
        {mode: program.kernels for mode, program in programs.items()},
        {mode: each.temporary_bytes for mode, each in compiled.items()},
        (note,) if step.reads_variables else (),
    )


def _row(
    fate: matching.Fate, step: inspected_steps.Step, asked: Asked
) -> InspectedProduct:
    given, float8 = fate.given, fate.is_float8
    layer, product = _place(fate, step)
    product = LORA if asked.is_lora(layer, given.name) else product
    outcomes = fate.outcomes
    shown = next((p for p in outcomes if not p.is_float8), outcomes[0])
    wanted = asked.is_for_float8(layer, product)
    reasons = [] if float8 else [_reason(fate, layer, product, asked)]
    if given.in_loop:
        reasons.append("in a loop: counted once")
    return InspectedProduct(
        layer,
        product,
        shown.operands,
        shown.result,
        given.size,
        given.flops,
        fate.kernels,
        float8,
        not float8 and fate.is_given and (wanted or given.is_float8),
        "; ".join(filter(None, reasons)),
        given.name,
    )


def _place(fate: matching.Fate, step: inspected_steps.Step) -> tuple[str, str]:
    """Returns the layer and which of its products it is, as far as known."""
    given = fate.given
    if not fate.is_given:
        return UNKNOWN, ""
    product = op_names.product_of(given.name, given.gradient_of)
    if not step.layers:
        return op_names.scope_of(given.name) or UNKNOWN, product
    number = op_names.layer_of(given.name)
    layer = UNKNOWN if number is None else list(step.layers)[number]
    return layer, product


def _reason(fate: matching.Fate, layer: str, product: str, asked: Asked) -> str:
    """Returns why a product is not in FP8."""
    if not fate.is_given:
        return "XLA has made it"
    if not fate.given.is_float8:
        if not asked.is_for_float8(layer, product):
            return asked.reason(layer, product)
        found = [f"FP8 with {mode} alone" for mode in fate.float8_modes]
        return "; ".join([asked.lost(layer), *found])
    made = [
        f"{' x '.join(products[0].operands) if products else 'no product'}"
        f" ({mode})"
        for mode, products in fate.compiled.items()
        if mode not in fate.float8_modes
    ]
    return f"XLA was given FP8, and compiled it to {', '.join(made)}"
