"""Keras' FP8 and loss scaling, and tfmp's, behind the same words.

The programs of `keras_faults.py` are written once, for either of them.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfmp
from tfmp._core import observations

# What Keras puts before the reason that a file does not load.
WRAPPING = re.compile(
    r"Exception encountered: |Example error message for object <.*>:"
)


class Seen(NamedTuple):
    """What a program ended with: whether as it should, and what was there."""

    ok: bool
    text: str


def first_words(raised: BaseException, length: int = 70) -> str:
    """Returns an error's type and the beginning of its message.

    >>> first_words(ValueError("too many values to unpack (expected 2)"), 12)
    'ValueError: too many...'
    """
    words = " ".join(WRAPPING.split(str(raised))[-1].split())
    if len(words) > length:
        words = words[: length + 1].rpartition(" ")[0] + "..."
    return f"{type(raised).__name__}: {words}"


@keras.saving.register_keras_serializable("keras_faults")
class NotedPolicy(keras.dtype_policies.DTypePolicy):
    """A policy of one's own: `mixed_bfloat16`, and a note."""

    def __init__(self, name: str, note: str = "") -> None:
        super().__init__(name)
        self.note = note

    def _parse_name(self, name: str) -> tuple[str, str]:
        return "bfloat16", "float32"

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "note": self.note}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotedPolicy) and self.note == other.note

    __hash__ = keras.dtype_policies.DTypePolicy.__hash__


class Keras:
    """Keras as it is: FP8 by policy or `quantize`."""

    name = "Keras"
    layers = keras.layers
    float16_names = ("float16", "float8_from_mixed_float16")

    def policy(self, history: int = 1024) -> keras.DTypePolicy:
        """Returns the policy of FP8 with a window of `history` steps."""
        kind = keras.dtype_policies.QuantizedFloat8DTypePolicy
        return kind("float8", "mixed_bfloat16", amax_history_length=history)

    def policy_subclass(self) -> keras.DTypePolicy:
        """Returns a policy that has more to it than its name."""
        return NotedPolicy("noted", note="kept")

    def policy_scope(self, name: str = "") -> Any:
        """Makes a policy the global one; without a name, that of FP8."""
        scope = contextlib.ExitStack()
        scope.callback(
            keras.config.set_dtype_policy, keras.config.dtype_policy()
        )
        keras.config.set_dtype_policy(name or "float8_from_mixed_bfloat16")
        # tfmp wraps `compile`, which then keeps `auto_scale_loss=False`.
        trainer = next(c for c in keras.Model.__mro__ if "compile" in vars(c))
        scope.callback(setattr, trainer, "compile", trainer.compile)
        trainer.compile = trainer.compile.__wrapped__
        return scope

    def float16_dense(self, units: int) -> keras.Layer:
        """Returns a layer that multiplies in FP8 and computes in float16."""
        return keras.layers.Dense(units, dtype="float8_from_mixed_float16")

    def optimizer(self, inner: Any = "sgd") -> Any:
        """Returns what one trains FP8 with."""
        return inner

    def loss_scaling(self, growth_steps: int = 2000) -> Any:
        """Returns SGD with dynamic loss scaling."""
        return keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), dynamic_growth_steps=growth_steps
        )

    def assumed(
        self, layer: Any, role: str = "inputs", read: Any = np.asarray
    ) -> float:
        """Returns the absolute maximum that the scale of a role stands for.

        Args:
            layer: in FP8.
            role: "inputs" or "kernel".
            read: what takes the value out of a `tf.Variable`.
        """
        return 448.0 * float(read(getattr(layer, f"{role}_scale").value))

    def convert(self, model: keras.Model) -> None:
        """Brings a trained model to FP8."""
        model.quantize("float8")

    def export(self, model: keras.Model, path: str, format: str) -> None:
        """Writes a file for LiteRT or ONNX."""
        model.export(path, format=format, verbose=False)


class Float16Dense(keras.layers.Dense):
    """FP8 products of float16 operands, by `tfmp.ops`."""

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        recipe = tfmp.recipes.CurrentScaling()
        return tfmp.ops.matmul(inputs, self.kernel, recipe=recipe) + self.bias


class Tfmp(Keras):
    """tfmp: the same words."""

    name = "tfmp"
    layers = tfmp.layers
    float16_names = ("float16", "mixed_float16")

    def policy(self, history: int = 16) -> keras.DTypePolicy:
        recipe = tfmp.recipes.DelayedScaling(amax_history_len=history)
        return tfmp.Policy("mixed_float8", recipe)

    def policy_subclass(self) -> keras.DTypePolicy:
        return self.policy(history=7)

    def policy_scope(self, name: str = "") -> Any:
        return tfmp.policy_scope(name or "mixed_float8", convert=False)

    def float16_dense(self, units: int) -> keras.Layer:
        return Float16Dense(units, dtype="mixed_float16")

    def optimizer(self, inner: Any = "sgd") -> Any:
        return tfmp.optimizers.LossScaleOptimizer(
            inner, initial_scale=1.0, dynamic=False
        )

    def loss_scaling(self, growth_steps: int = 2000) -> Any:
        return tfmp.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), growth_steps=growth_steps
        )

    def assumed(
        self, layer: Any, role: str = "inputs", read: Any = np.asarray
    ) -> float:
        state = tf.convert_to_tensor(read(layer.float8.variable.value))
        amax = observations.assumed(state, layer.float8.fade)
        return float(amax[("inputs", "kernel").index(role)])

    def convert(self, model: keras.Model) -> None:
        tfmp.convert(model)

    def export(self, model: keras.Model, path: str, format: str) -> None:
        tfmp.export(model, path, format)
