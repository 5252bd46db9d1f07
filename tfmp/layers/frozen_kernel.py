"""A kernel that is stored once, as bytes of FP8, for inference alone.

A layer whose policy is a `FrozenPolicy` owns, in place of its kernel,

    kernel         uint8, of the kernel's shape: FP8, by its bits
    kernel_scale   float32: a power of two, or one for each output channel
    inputs_scale   float32 scalar, if the scale of inputs is static

and multiplies what these stand for: `kernel / kernel_scale`.  A file of it has
the three under "0", "kernel_scale" and "inputs_scale", the bias under "1".  A
file of a kernel in float32 is quantized as it is read, and the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfmp import ops, policies, recipes
from tfmp._core import quantization, scaling, stablehlo
from tfmp._keras import call_context, class_and_policy, layer_parts

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object

SCALES = ("kernel_scale", "inputs_scale")
TRAINS = (
    "layer {name!r} is frozen, for inference alone: `tfmp.thaw` gives a model "
    "that trains. In a model of which other layers train, it has "
    "trainable=False."
)
IN_BYTES = (
    "layer {name!r} must be frozen to load the file of a frozen one: load it "
    "after `tfmp.freeze`, and `tfmp.thaw` then gives a kernel that trains."
)
NO_AMAX = (
    "the file of layer {name!r} must hold the amax of its inputs, as that of a "
    "model trained in FP8 does, for their scale is frozen. Load it into a "
    "model that is not, and freeze that with `data`."
)


class Frozen(Base):
    """Mixin for a layer of one kernel, which may be frozen.

    Attributes:
        kernel_scale, inputs_scale: variables; None while they are not there.
        is_plain_product: whether it multiplies with the kernel as it is stored,
            without factors of its own.
    """

    is_plain_product = True
    float8: Any = None
    kernel_scale: Any = None
    inputs_scale: Any = None
    _read: Any = None

    @property
    def frozen(self) -> policies.FrozenPolicy | None:
        """The policy of a frozen layer, None of one that is not."""
        return policies.frozen_of(self)

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """The kernel's axes of output channels, which outputs have last.

        In the same order; none if they are elsewhere.
        """
        return ()

    @property
    def axes_behind(self) -> int:
        """How many axes of the outputs are behind the channels."""
        return 0

    @property
    def holds_bytes(self) -> bool:
        """Whether the kernel is stored as bytes."""
        stored = vars(self).get("_kernel")
        return stored is not None and stored.dtype == "uint8"

    @property
    def kernel(self) -> Any:
        """The kernel; of a frozen one the values that are multiplied."""
        if not self.holds_bytes:
            return super().kernel
        stored = tf.convert_to_tensor(self._kernel)
        low = stablehlo.bitcast(stored, self._float8)
        return quantization.dequantize(
            low, tf.convert_to_tensor(self.kernel_scale), self.variable_dtype
        )

    @property
    def _recipe(self) -> Any:
        """The recipe, also while layers compute as those of Keras."""
        return policies.recipe_of(policies.of_layer(self))

    def update_frozen(self) -> None:
        """Brings the kernel in line with the policy, which may have changed."""
        is_frozen = isinstance(policies.of_layer(self), policies.FrozenPolicy)
        if is_frozen and not self.holds_bytes:
            self._freeze()
        if self.holds_bytes and not is_frozen:
            self._thaw()
        if is_frozen and self.float8 is not None:
            self.float8.recipe = None

    def frozen_pass(self, training: Any) -> ops.FrozenPass:
        """Returns what an operator is to know of the frozen kernel.

        Raises:
            RuntimeError: if this is training, and of this layer too.
        """
        if training is None:
            training = call_context.training_of_call()
        trains = training is not None and training is not False
        if trains and self.trainable:
            raise RuntimeError(TRAINS.format(name=self.name))
        by_channel = self.kernel_scale.shape != ()
        return ops.FrozenPass(
            training=False,
            kernel_scale=1.0 if by_channel else self.kernel_scale,
            inputs_scale=self.inputs_scale,
        )

    def for_inference(self, outputs: Any) -> Any:
        """Returns outputs; those of a frozen layer have no gradient.

        To ask for one is an error, unless the layer is not to be trained.
        """
        if self.frozen is None:
            return outputs
        if not self.trainable:
            return tf.stop_gradient(outputs)
        message = TRAINS.format(name=self.name)
        return tf.raw_ops.PreventGradient(input=outputs, message=message)

    def unscaled(self, outputs: Any) -> Any:
        """Takes the scales of output channels out of a product."""
        if self.frozen is None or self.kernel_scale.shape == ():
            return outputs
        factor = 1 / tf.convert_to_tensor(self.kernel_scale)
        lengths = [factor.shape[axis] for axis in self.channel_axes]
        factor = tf.reshape(factor, lengths + [1] * self.axes_behind)
        return outputs * tf.cast(factor, outputs.dtype)

    def _freeze(self) -> None:
        """Replaces the kernel by its bytes."""
        with call_context.uncast():
            kernel = tf.convert_to_tensor(self.kernel)
        self._own(*self._quantized(kernel))

    def _quantized(self, kernel: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the bytes, the kernel's scale and that of the inputs."""
        recipe: Any = self._recipe
        if not self.trainable:
            recipe = recipe.as_current()  # as it is in inference
        scale = kernel_scale(kernel, self._seen, recipe, self._reduced)
        low = quantization.quantize(kernel, scale, recipe.format("kernel"))
        inputs = scaling.scale_of_role(recipe, "inputs", self._seen[0])
        return stablehlo.bitcast(low, tf.uint8), scale, inputs

    @property
    def _seen(self) -> tf.Tensor:
        """The amax that inference assumes, float32 `[3]`; zero: its own."""
        return tf.zeros([3]) if self.float8 is None else self.float8.amax

    @property
    def _reduced(self) -> tuple[int, ...] | None:
        """The kernel's axes that share a scale, None for all of them."""
        policy: Any = policies.of_layer(self)
        if policy.scales == "tensor" or not self.channel_axes:
            return None
        rank = len(self._kernel.shape)
        return tuple(set(range(rank)) - set(self.channel_axes))

    def _own(
        self, kernel: tf.Tensor, kernel_scale: tf.Tensor, inputs: tf.Tensor
    ) -> None:
        """Owns bytes and scales, and no longer a kernel."""
        self._float8 = tf.as_dtype(self._recipe.format("kernel").dtype)
        layer_parts.replace_kernel(self, kernel, trainable=False)
        policy: Any = policies.of_layer(self)
        layer_parts.set_constant(self, "kernel_scale", kernel_scale)
        static = inputs if policy.static_inputs else None
        layer_parts.set_constant(self, "inputs_scale", static)

    def _thaw(self) -> None:
        """Owns a kernel again, of the values that its bytes stood for."""
        layer_parts.replace_kernel(
            self,
            self.kernel,
            trainable=True,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        for name in SCALES:
            layer_parts.set_constant(self, name, None)

    def save_own_variables(self, store: Any) -> None:
        """Saves the bytes and scales of a frozen layer, else the weights."""
        if not self.holds_bytes:
            super().save_own_variables(store)
            return
        saved = {"0": self._kernel, "1": self.bias}
        saved |= {name: getattr(self, name) for name in SCALES}
        for name, variable in saved.items():
            if variable is not None:
                store[name] = variable

    def load_own_variables(self, store: Any) -> None:
        """Loads either kind of file, into a layer of either kind."""
        in_bytes = "kernel_scale" in store.keys()
        if not self.built or not (in_bytes or self.holds_bytes):
            super().load_own_variables(store)
            return
        saved = {name: np.asarray(store[name]) for name in store.keys()}
        if not self.holds_bytes:
            raise ValueError(IN_BYTES.format(name=self.name))
        expected = {"0"} if self.bias is None else {"0", "1"}
        if {*saved} - {*SCALES} != expected:
            raise ValueError(
                f"the file must have the arrays {sorted(expected)} of layer "
                f"{self.name!r}. Received: {sorted(saved)}"
            )
        if self.bias is not None:
            self.bias.assign(saved["1"])
        if in_bytes:
            self._take(saved)
            return
        self._read = saved["0"]
        if self.float8 is None:
            self._quantize_read()
        else:  # whose turn comes next
            self.float8.after_load = self._quantize_read

    def _take(self, saved: dict[str, np.ndarray]) -> None:
        """Takes bytes and scales of a file, which may have others of these."""
        new: list[Any] = [saved.get(name) for name in SCALES]
        own = [getattr(self, name) for name in SCALES]
        if list(map(_shape, new)) == list(map(_shape, own)):
            self._assign(saved["0"], *new)
            return
        scales = "channel" if np.ndim(new[0]) else "tensor"
        policy = policies.FrozenPolicy(self._recipe, scales, new[1] is not None)
        class_and_policy.assign(self, policy)
        self._own(saved["0"], *new)

    def _quantize_read(self) -> None:
        """Takes a kernel in float32 that a file had."""
        kernel = tf.convert_to_tensor(self._read, tf.float32)
        self._read = None
        recipe = self._recipe
        seen = scaling.is_observed(self._seen[0])
        known = recipe.static_scale("inputs") is not None or bool(seen)
        if self.inputs_scale is not None and not known:
            raise ValueError(NO_AMAX.format(name=self.name))
        self._assign(*self._quantized(kernel))

    def _assign(self, kernel: Any, kernel_scale: Any, inputs: Any) -> None:
        self._kernel.assign(kernel)
        self.kernel_scale.assign(kernel_scale)
        if self.inputs_scale is not None:
            self.inputs_scale.assign(inputs)


def kernel_scale(
    kernel: tf.Tensor,
    seen: tf.Tensor,
    recipe: recipes.Float8Recipe,
    axes: tuple[int, ...] | None = None,
) -> tf.Tensor:
    """Returns the scale of a kernel in inference.

    Args:
        kernel: as it is stored.
        seen: float32 `[3]`: what delayed scaling assumes of each role.
        recipe: that the layer runs by in inference.
        axes: those that share a scale, by their own amax; None for all.
    """
    if axes is not None:
        amax = tf.reduce_max(tf.abs(kernel), axes, keepdims=True)
        return scaling.scale_of_role(recipe, "kernel", amax)
    amax = scaling.amax(kernel)
    if recipe.is_delayed("kernel"):
        target = recipe.format("kernel")
        amax = scaling.assumed_amax(seen, "kernel", target, amax)
    return scaling.scale_of_role(recipe, "kernel", amax)


def _shape(x: Any) -> tuple[int, ...] | None:
    return None if x is None else tuple(x.shape)
