"""What makes a Keras layer contract in FP8: a recipe and one variable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfmp import ops, policies, recipes

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object


def is_amax(variable: Any) -> bool:
    """Whether a variable is the FP8 state of a tfmp layer."""
    return isinstance(getattr(variable, "recipe", None), recipes.Recipe)


class Float8Contraction(Base):
    """Mixin for a Keras layer of one kernel; put it before the Keras class.

    With a policy that has a recipe, the layer owns one more variable, `amax`,
    float32 of shape `[3]`: the absolute maximum to assume for inputs, kernel
    and output gradient, zero until a step has observed it.  Its gradient is
    the amax observed in the step, and the optimizer writes it back.  Without
    a recipe the layer is the Keras layer.

    A class that uses it names its einsum equation: `contraction_equation`.
    """

    amax: Any = None

    def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, dtype=policies.get(dtype), **kwargs)

    @property
    def recipe(self) -> recipes.Recipe | None:
        """The recipe that the layer's policy has, None if it has none."""
        policy = self.dtype_policy
        if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
            policy = policy[self.path] if self.path else policy.default_policy
        return policies.recipe_of(policy)

    @property
    def contraction_equation(self) -> str:
        """The einsum equation of inputs and kernel."""
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Creates the layer's variables, `amax` last."""
        if self.recipe is None:
            super().build(input_shape)
            return
        # Keras' build would lock the layer as it enables LoRA.
        lora_rank = self.lora_rank
        self.lora_rank: Any = None
        super().build(input_shape)
        self.amax = self.add_weight(
            name="amax",
            shape=(len(recipes.ROLES),),
            dtype="float32",
            initializer="zeros",
            autocast=False,
            overwrite_with_gradient=True,
            aggregation="only_first_replica",
        )
        self.amax.recipe = self.recipe
        if lora_rank:
            self.enable_lora(lora_rank, lora_alpha=self.lora_alpha)

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """Adds a variable; a kernel is quantized from its own dtype."""
        if self.recipe is not None and kwargs.get("name") == "kernel":
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Contracts, adds the bias and applies the activation."""
        recipe = self.recipe
        if recipe is None:
            return super().call(inputs, training=training)
        # Without observations, as when frozen, it scales by its tensors.
        observed = self.amax is not None and self.amax.trainable
        x = ops.einsum(
            self.contraction_equation,
            inputs,
            self.kernel,
            recipe=recipe if observed else recipe.as_current(),
            amax=self.amax if observed else None,
            training=training is not False,
        )
        if self.bias is not None:
            x = keras.ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)

    @property
    def variable_serialization_spec(self) -> dict[str | None, list[str]]:
        """The order of variables in a file: Keras', then `amax`."""
        spec = dict(super().variable_serialization_spec)
        if self.amax is not None:
            spec[None] = [*spec[None], "amax"]
        return spec

    def load_own_variables(self, store: Any) -> None:
        """Loads variables; a file of a plain layer has observed nothing."""
        plain = 1 if self.bias is None else 2
        if self.amax is not None and len(store) == plain:
            store = {**store, str(plain): [0.0] * len(recipes.ROLES)}
        super().load_own_variables(store)
