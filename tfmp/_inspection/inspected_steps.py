"""What is inspected, as one function of tensors that XLA can be given."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._core import op_names
from tfmp._inspection import relowering
from tfmp._keras import compile_arguments, global_notes, training_pass
from tfmp.conversion.records import flatten
from tfmp.conversion.sizes import Sizes, specs_of

CPU = "/CPU:0"
COPY = re.compile(r"mhlo\.copy (%[\w#]+) : (\S+)")
MASK = re.compile(r'dense<"0x([0-9A-F]+)"> : tensor<((?:\d+x)+)i1>')
UNCOMPILED = (
    "`model_or_function` must be one that XLA can compile; text and "
    "look-up tables are not: give the model behind them. Received: {}"
)


class NoLossError(ValueError):
    """Labels were given for a model that has no loss."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A function that is traced, and not run.

    Attributes:
        function: a `tf.function` that XLA compiles, of flat tensors.
        specs: of the tensors.
        layers: the model's, by path, in the order of their numbers; none of a
            function.
    """

    function: Any
    specs: tuple[tf.TensorSpec, ...]
    layers: dict[str, keras.Layer]

    @property
    def reads_variables(self) -> bool:
        """Whether it has variables that are not among its arguments."""
        traced = self.function.get_concrete_function(*self.specs)
        return any(t.dtype == tf.resource for t in traced.captured_inputs)

    def for_accelerators(self, stage: str) -> str:
        """Returns the program that an accelerator's XLA is given.

        Args:
            stage: `"stablehlo"` or `"hlo"`.
        """
        if not self.reads_variables:
            return self.text(stage, CPU, "GPU")
        traced = self.function.get_concrete_function(*self.specs)
        with relowering.for_accelerators(traced) as copy:
            return dataclasses.replace(self, function=copy).text(stage, CPU)

    def text(self, stage: str, device: str, platform: str | None = None) -> str:
        """Returns the program at a stage of XLA.

        Args:
            stage: `"stablehlo"`, `"hlo"` or `"optimized_hlo"`.
            device: a logical device of TensorFlow.
            platform: to write the program for, if not for the device.
        """
        write = self.function.experimental_get_compiler_ir(*self.specs)
        # Outside of a graph, it draws a random number to see the device.
        with tf.Graph().as_default(), tf.device(device):
            try:
                text = write(stage=stage, platform_name=platform)
            except (ValueError, tf.errors.OpError) as error:
                raise ValueError(UNCOMPILED.format(error)) from error
        # An assignment is a copy, which only TensorFlow's XLA can read.
        text = COPY.sub(r"stablehlo.reshape \1 : (\2) -> \2", text)
        return MASK.sub(_unpacked, text)


def _unpacked(found: re.Match[str]) -> str:
    """Writes a constant of booleans with a byte for each.

    TensorFlow's MLIR prints them eight to a byte, the first in the lowest
    bit; the MLIR of newer XLA reads and prints a byte each.
    """
    written = bytes.fromhex(found.group(1))
    size = math.prod(map(int, found.group(2).split("x")[:-1]))
    if len(written) == size:
        return found.group()
    packed = np.frombuffer(written, np.uint8)
    bits = np.unpackbits(packed, count=size, bitorder="little")
    return found.group().replace(found.group(1), bits.tobytes().hex().upper())


def of_model(model: keras.Layer, inputs: tuple[Any, ...], sizes: Sizes) -> Step:
    """Returns a model's training step: forward, loss, and all gradients.

    The model's variables are arguments of it, so that nothing is assigned;
    but for a model with a `tf.function` of its own, or that recomputes, as
    their gradients are of the variables themselves.

    Args:
        model: built.
        inputs: `x`, `y` and sample weights, or the first of these; without
            any, `x` is what the model says it takes.
        sizes: for lengths that are open.
    """
    data = inputs or (_signature(model),)
    specs = specs_of(data, sizes)
    layers = flatten(model)
    if training_pass.has_functions(layers.values()):
        return _training(model, layers, specs, stateful=True)[0]
    found, missing = _training(model, layers, specs, stateful=False)
    if missing:  # recomputation has gradients for variables alone
        again, fewer = _training(model, layers, specs, stateful=True)
        found = again if fewer < missing else found
    return found


def _training(
    model: keras.Model,
    layers: dict[str, keras.Layer],
    specs: Any,
    stateful: bool,
) -> tuple[Step, int]:
    """Returns the step, and how many variables have no gradient in it."""
    trained, rest = model.trainable_variables, model.non_trainable_variables
    given = ([], []) if stateful else (trained, rest)
    kinds = [[tf.TensorSpec(v.shape, v.dtype) for v in vs] for vs in given]
    missing = 0

    def step(values: list[Any], others: list[Any], data: Any) -> Any:
        """Returns the gradients of a loss, as `train_step` takes them."""
        nonlocal missing
        state = [*zip(trained, values, strict=False)]
        state += zip(rest, others, strict=False)
        scope = keras.StatelessScope(state_mapping=state)
        with tf.GradientTape() as tape:
            tape.watch(values)
            with contextlib.nullcontext() if stateful else scope:
                loss = _loss(model, *data)
        sources = [v.value for v in trained] if stateful else values
        with contextlib.nullcontext() if stateful else scope:
            gradients = tape.gradient(loss, sources)
        missing = sum(gradient is None for gradient in gradients)
        changed = () if stateful else map(scope.get_current_value, rest)
        return loss, gradients, list(changed)

    with (
        training_pass.losses_kept(layers.values()),
        global_notes.seed_kept(),
        training_pass.around_calls(layers, _numbered(layers)),
    ):
        return _traced(step, (*kinds, specs), layers), missing


def _numbered(
    layers: dict[str, keras.Layer],
) -> Callable[..., Callable[..., Any]]:
    """Returns what wraps a layer's call in a scope with its number."""
    numbers = {path: number for number, path in enumerate(layers)}

    def numbered(
        path: str, layer: keras.Layer, call: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Wraps the call of one layer."""

        @functools.wraps(call)
        def named(*args: Any, **kwargs: Any) -> Any:
            with op_names.layer(numbers[path]):
                return call(*args, **kwargs)

        return named

    return numbered


def of_function(
    function: Callable[..., Any], inputs: tuple[Any, ...], sizes: Sizes
) -> Step:
    """Returns a function of tensors, which may read and assign variables.

    Args:
        function: a `tf.function`, or what can become one.
        inputs: its arguments, or specs of them.
        sizes: for lengths that are open.
    """
    if not isinstance(function, training_pass.FUNCTION):
        function = tf.function(function)
    specs = specs_of(inputs, sizes)
    return _traced(function, specs, {})


def _traced(
    function: Callable[..., Any], specs: Any, layers: dict[str, keras.Layer]
) -> Step:
    flat = keras.tree.flatten(specs)

    def call(*tensors: tf.Tensor) -> Any:
        return function(*keras.tree.pack_sequence_as(specs, tensors))

    compiled = tf.function(call, jit_compile=True, autograph=False)
    try:
        compiled.get_concrete_function(*flat)
    except NoLossError:
        raise
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            "`inputs` must be what `model_or_function` takes, and that must "
            "be one that XLA can compile. Received: "
            f"{specs[-1] if layers else specs}: {error}"
        ) from error
    return Step(compiled, tuple(flat), layers)


def _loss(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None
) -> Any:
    """Returns the compiled loss, or without labels a sum of squares."""
    outputs = training_pass.train_call(model, x)
    if y is None:
        squares = [
            tf.reduce_sum(tf.square(tf.cast(output, tf.float32)))
            for output in keras.tree.flatten(outputs)
            if tf.is_tensor(output) and output.dtype.is_floating
        ]
        return tf.add_n(squares) if squares else tf.constant(0.0)
    loss = None
    if isinstance(model, keras.Model):
        loss = training_pass.train_loss(model, x, y, outputs, sample_weight)
    if loss is None:
        raise NoLossError(
            "`y`, the second of `inputs`, needs a model that is compiled with "
            "a loss; without one leave `y` out, or give a function that "
            f"returns loss and gradients. Received: {model.name!r}"
        )
    return loss


def _signature(model: keras.Layer) -> Any:
    try:
        return compile_arguments.input_signature(model)[0]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            "`inputs` must be given for a model that does not say what it "
            f"takes. Received: {model.name!r}"
        ) from error
