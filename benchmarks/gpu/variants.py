"""What is run on a GPU: a function of tensors, and what it starts from.

Either a training step as Keras makes it, or matrix products alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

import tfmp
from benchmarks import workloads
from benchmarks.gpu import arrays
from tfmp._core import equations, stablehlo

BATCHES = 4  # that follow each other, and begin again
E4M3 = "float8_e4m3fn"
ROWS = equations.Contraction("ik", "jk", "ij")  # how GPUs want FP8 to lie


class Input(NamedTuple):
    """An argument of a function, or a variable that it reads.

    Attributes:
        name: what it is.
        shape: its lengths.
        dtype: the name of its dtype.
        how: its description, see `arrays`.
        batches: how many there are, that follow each other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    how: arrays.Description
    batches: int = 1

    @property
    def spec(self) -> tf.TensorSpec:
        """What TensorFlow has to know of it."""
        return tf.TensorSpec(self.shape, self.dtype)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One function, to be run again and again.

    Attributes:
        function: of tensors; it may read and assign variables.
        inputs: its arguments.
        model: whose variables they are, None without any.
        feedback: which argument a result becomes in the next step.
        loss: which result is the loss, None without one.
    """

    function: Callable[..., Any]
    inputs: list[Input]
    model: keras.Model | None = None
    feedback: dict[int, int] = dataclasses.field(default_factory=dict)
    loss: int | None = None


def training(workload: workloads.Workload, precision: str) -> Variant:
    """Keras' own `train_step`: loss, gradients, optimizer and FP8 state.

    Metrics start anew in each step, so that the loss is that of its batch.
    """
    keras.utils.clear_session()  # a variable's name is its seed
    model = workloads.build(workload, precision)
    model.optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        model.reset_metrics()
        return model.train_step((x, y))["loss"]

    return Variant(step, batches(workload), model, loss=0)


def batches(workload: workloads.Workload) -> list[Input]:
    """Returns inputs and labels: a text's next words, or any classes."""
    shape, classes = (workload.batch, *workload.shape), workload.classes
    if workload.is_text:
        text = {"text": classes, "seed": 1}
        return [
            Input(name, shape, "int32", {**text, "skip": skip}, BATCHES)
            for skip, name in enumerate("xy")
        ]
    labels = shape[:-1] if len(shape) == 3 else shape[:1]
    return [
        Input("x", shape, "float32", {"normal": 1.0, "seed": 1}, BATCHES),
        Input("y", labels, "int32", {"below": classes, "seed": 2}, BATCHES),
    ]


def forward(size: int, copies: int, precision: str) -> Variant:
    """Products of two matrices, each of its own operands.

    Args:
        size: of the square matrices.
        copies: how many products: one small one would only measure how fast
            a step can be started.
        precision: `"bfloat16"`, `"tfmp delayed"` or `"tfmp current"`, which
            quantize bfloat16 operands and multiply; `"float8 alone"`, whose
            operands are FP8.
    """
    dtype = E4M3 if precision == "float8 alone" else "bfloat16"
    inputs = _operands(size, copies, "xw", dtype)
    if precision == "tfmp delayed":
        inputs.append(Input("amax", (3,), "float32", {"full": 5.0}))

    def step(*tensors: tf.Tensor) -> list[tf.Tensor]:
        amax = tensors[2 * copies :]
        pairs = zip(tensors[0 : 2 * copies : 2], tensors[1::2], strict=False)
        return [_multiply(x, w, precision, *amax) for x, w in pairs]

    return Variant(step, inputs)


def with_gradients(size: int, copies: int, precision: str) -> Variant:
    """The three products of a layer: output and both gradients."""
    inputs = _operands(size, copies, "xwd", "bfloat16")
    delayed = precision == "tfmp delayed"
    if delayed:
        zeros = {"full": 0.0}  # not observed yet
        inputs += [
            Input(f"amax{n}", (3,), "float32", zeros) for n in range(copies)
        ]

    def step(*tensors: tf.Tensor) -> list[list[tf.Tensor]]:
        results = []
        for n in range(copies):
            x, w, dy = tensors[3 * n : 3 * n + 3]
            sources = [x, w, *tensors[3 * copies :][n : n + 1]]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                y = _multiply(*sources[:2], precision, *sources[2:])
            gradients = tape.gradient(y, sources, output_gradients=dy)
            results.append([y, *gradients])
        return results

    # The last result of each product is what it observed.
    feedback = {4 * n + 3: 3 * copies + n for n in range(copies) if delayed}
    return Variant(step, inputs, feedback=feedback)


def _operands(size: int, copies: int, names: str, dtype: str) -> list[Input]:
    return [
        Input(f"{name}{n}", (size, size), dtype, {"normal": 1.0, "seed": seed})
        for n in range(copies)
        for seed, name in enumerate(names, start=10 * n)
    ]


def _multiply(
    x: tf.Tensor, w: tf.Tensor, precision: str, amax: tf.Tensor | None = None
) -> tf.Tensor:
    if precision == "bfloat16":
        return tf.linalg.matmul(x, w)
    if precision == "float8 alone":
        y = stablehlo.multiply(ROWS, x, w, tf.bfloat16, precise=False)
        return y * tf.constant(0.5, y.dtype)  # a scale, as always
    recipe = precision.split()[1]
    return tfmp.ops.matmul(x, w, recipe=recipe, amax=amax)
