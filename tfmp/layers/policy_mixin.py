"""What makes a Keras layer take, and keep, any policy of tfmp and of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfmp import policies

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object


class Policied(Base):
    """Mixin for a layer with a policy of tfmp; put it before the Keras class.

    A name, such as "mixed_bfloat16", is a `tfmp.Policy`; a policy of Keras
    stays one, also in a layer that is made again from its config.
    """

    def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, dtype=policies.get(dtype), **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Rebuilds the layer; Keras would reduce its policy to a name."""
        dtype = config.get("dtype")
        if isinstance(dtype, dict):
            policy = keras.dtype_policies.deserialize(dtype)
            config = {**config, "dtype": policy}
        return super().from_config(config)
