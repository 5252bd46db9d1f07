"""What makes a Keras layer contract in FP8: a recipe and its state."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfmp import ops, policies, recipes
from tfmp._keras import call_context, layer_builds, layer_parts
from tfmp._support import checks
from tfmp.layers.float8_state import Float8State
from tfmp.layers.frozen_kernel import Frozen
from tfmp.layers.policy_mixin import Policied
from tfmp.layers.probe_mixin import Measured
from tfmp.layers.quantizable import Quantizable
from tfmp.ops import operand_arguments

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object


class Float8Layer(Policied, Quantizable, Measured, Frozen, Base):
    """Mixin for a Keras layer of one kernel; put it before the Keras class.

    With a policy that has a recipe, the layer owns a `Float8State`.  Without
    a recipe the layer is the Keras layer.

    Attributes:
        calibration: what is shown all inputs, or None.
    """

    calibration: Any = None

    @property
    def recipe(self) -> recipes.Recipe | None:
        """The recipe that the layer's policy has, None if it has none."""
        return policies.recipe_of_layer(self)

    @property
    def amax(self) -> Any:
        """What the next pass assumes, float32 `[3]`; None without FP8."""
        idle = self.float8 is None or self.float8.recipe is None
        return None if idle else self.float8.amax

    @layer_builds.of_present_class
    def build(self, input_shape: Any) -> None:
        """Creates the Keras layer's variables, and the FP8 state.

        Raises:
            TypeError, ValueError: if `input_shape` is no shape, or one that
                the layer's arguments do not fit.
        """
        input_shape = checks.shape("input_shape", input_shape)
        try:
            super().build(input_shape)
        except IndexError as error:
            raise ValueError(
                f"`input_shape` must have the axes that {self.name!r} needs. "
                f"Received: {input_shape}"
            ) from error
        self.update_float8()

    def update_float8(self) -> None:
        """Brings the state in line with the policy, which may have changed.

        The state of a layer that leaves FP8 is kept for when it comes back.
        """
        recipe = self.recipe
        if recipe is not None and not recipe.observes:
            recipe = None  # which needs no state
        if self.float8 is not None:
            self.float8.recipe = recipe
        elif recipe is not None:
            parent = (self.path or self.name).rpartition("/")[0]
            with (
                layer_parts.unlocked(self),
                keras.name_scope(self.name, override_parent=parent),
            ):
                self.float8 = Float8State(recipe)
                self.float8.build()
        if self.float8 is not None:
            self.float8.belongs_to(layer_parts.own_weights(self))
        self.update_frozen()

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """As the Keras layer; its new variables belong to the same state.

        Raises:
            ValueError: if the layer is frozen.
        """
        if self.holds_bytes:
            raise ValueError(
                f"layer {self.name!r} must not be frozen for LoRA; `tfmp.thaw` "
                "gives a model that trains"
            )
        super().enable_lora(*args, **kwargs)
        if self.float8 is not None:
            self.float8.belongs_to(layer_parts.own_weights(self))

    def in_compute_dtype(self, inputs: Any) -> Any:
        """Casts whole numbers, which Keras leaves to its operators.

        Complex ones are left, and refused by the operator: FP8 would lose
        their imaginary part.
        """
        if self.calibration is not None:
            self.calibration(inputs)
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if keras.backend.is_float_dtype(dtype) or dtype.startswith("complex"):
            return inputs
        return keras.ops.cast(inputs, self.compute_dtype)

    def uncast_kernel(self) -> Any:
        """Returns the kernel as it is stored, for it is quantized from that."""
        with call_context.uncast():
            return tf.convert_to_tensor(self.kernel)

    def operand(self) -> Any:
        """Returns the kernel as an operator takes it: of one frozen, bytes."""
        if self.frozen is None:
            return self.uncast_kernel()
        return tf.convert_to_tensor(self._kernel)

    def float8_options(self, training: bool | None = None) -> dict[str, Any]:
        """Returns how an operator of `ops` is to run: recipe and state.

        Without observations, as when frozen, it scales by its tensors.
        Statistics are of training steps.
        """
        if self.frozen is not None:
            return {"recipe": self.recipe, "amax": self.frozen_pass(training)}
        if training is None:
            training = call_context.training_of_call()
        amax, take_in = self._begin_pass(training)
        run = ops.Pass(
            amax=amax,
            training=training is not None and training is not False,
            probe=self.float8_probe("", training),
            take_in=take_in,
        )
        return {"recipe": self.float8_operators().get(""), "amax": run}

    def _begin_pass(self, training: bool | None) -> tuple[Any, Any]:
        """Returns what is assumed, and what takes in what is observed."""
        if not self._is_observed:
            return None, None
        if training is False:
            return self.amax, None
        amax, take_in = self.float8.begin_pass()
        return amax, take_in

    def float8_operators(self) -> dict[str, recipes.Recipe]:
        """Returns the recipe that the layer's one product runs by."""
        recipe = self.recipe
        if recipe is None:
            return {}
        return {"": recipe if self._is_observed else recipe.as_current()}

    @property
    def _is_observed(self) -> bool:
        return self.trainable and self.amax is not None


class Float8Contraction(Float8Layer):
    """Mixin for a layer that is one einsum, a bias and an activation.

    A class that uses it names the equation: `contraction_equation`.

    Attributes:
        takes_sparse: whether it was called on a sparse tensor, whose product
            runs in the compute dtype.
    """

    takes_sparse = False

    @property
    def contraction_equation(self) -> str:
        """The einsum equation of inputs and kernel."""
        raise NotImplementedError

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """The kernel's axes that the outputs have last, in the same order."""
        lhs, rhs, out = re.split(",|->", self.contraction_equation)
        own = [label for label in rhs if label not in lhs]
        if not out.endswith("".join(own)):
            return ()
        return tuple(map(rhs.index, own))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Contracts, adds the bias and applies the activation."""
        if self.recipe is None:
            return super().call(inputs, training=training)
        if isinstance(inputs, tf.SparseTensor):
            return self._call_on_sparse(inputs, training)
        x = ops.einsum(
            self.contraction_equation,
            operand_arguments.operand("inputs", self.in_compute_dtype(inputs)),
            self.operand(),
            **self.float8_options(training),
        )
        x = self.unscaled(x)
        if self.bias is not None:
            x = keras.ops.add(x, self.bias)
        x = x if self.activation is None else self.activation(x)
        return self.for_inference(x)

    def _call_on_sparse(self, inputs: Any, training: bool | None) -> Any:
        """Calls the Keras layer: no FP8 product takes sparse operands."""
        self.takes_sparse = True
        return super().call(inputs, training=training)
