"""Keras' own `quantize` on a layer of tfmp: the layer becomes Keras' first.

`model.quantize("int8")` asks each layer that has no others inside.  A layer of
tfmp that Keras can quantize gives up its FP8 state and its class, keeps the
dtype that it computes in, and is then the Keras layer that is quantized.  One
that Keras cannot quantize stays as it is, and Keras warns.  A subclass of the
user's stays as it is in FP8; without FP8 it is quantized by `type_check=False`,
as with Keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfmp import policies
from tfmp._keras import class_and_policy, layer_parts, policy_callers

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object

FROZEN = (
    "Layer {name!r} stays as it is: it is frozen, with a kernel of 8 bits. "
    "`tfmp.thaw` gives one that Keras quantizes."
)
SUBCLASS = (
    "Layer {name!r} stays as it is: Keras quantizes layers of its own "
    "classes, not their subclasses in FP8. `tfmp.revert` makes it a layer of "
    "Keras again. Received: {kind}"
)


class Quantizable(Base):
    """Mixin for a layer of tfmp, before the Keras class that it extends."""

    float8: Any = None

    def _flatten_layers(self, *args: Any, **kwargs: Any) -> list[keras.Layer]:
        """Leaves out the FP8 state: Keras quantizes what holds no layers."""
        every = super()._flatten_layers(*args, **kwargs)
        return [layer for layer in every if layer is not self.float8]

    def _check_quantize_args(self, mode: str, compute_dtype: str) -> None:
        """Checks, as Keras does before it quantizes, and steps back for it.

        Raises:
            NotImplementedError: if it is frozen, or a subclass in FP8.
        """
        super()._check_quantize_args(mode, compute_dtype)
        if getattr(self, "holds_bytes", False):
            raise NotImplementedError(FROZEN.format(name=self.name))
        stock = _keras_class(type(self))
        if stock.quantize is keras.Layer.quantize:  # which says so
            return
        kind = type(self)
        policy = policies.of_layer(self)
        recipe = policies.recipe_of(policy)
        if not kind.__module__.startswith("tfmp."):
            if recipe is None:  # Keras' own `quantize` decides
                return
            raise NotImplementedError(
                SUBCLASS.format(name=self.name, kind=kind.__name__)
            )
        if recipe is not None:
            policy = keras.DTypePolicy(policy_callers.keras_name(policy))
        if self.float8 is not None:
            self.float8.leave(layer_parts.own_weights(self))
        class_and_policy.drop_float8(self)
        class_and_policy.assign(self, policy, stock)


def _keras_class(cls: type) -> type[keras.Layer]:
    """Returns the first class of Keras', of those a class of tfmp extends."""
    return next(
        base
        for base in cls.__mro__
        if issubclass(base, keras.Layer) and not issubclass(base, Quantizable)
    )
