"""The policy of a layer whose kernel is stored once, in 8 bits."""

from __future__ import annotations

from typing import Any

import keras

from tfmp import recipes
from tfmp._support import checks
from tfmp.policies.policy import Policy

SCALES = ("tensor", "channel")


@keras.saving.register_keras_serializable("tfmp")
class FrozenPolicy(Policy):
    """`mixed_float8` for inference alone: what `tfmp.freeze` gives a layer.

    It is saved with the layer, which is built from it with a kernel of bytes.

    Args:
        recipe: that the layer was trained by, and is thawed to.
        scales: what has a scale of its own: a kernel, `"tensor"`, or each of
            its output channels, `"channel"`.
        static_inputs: whether the scale of inputs is stored too; if not, it
            follows from the amax of each batch.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `scales` is unknown.

    >>> FrozenPolicy("current", static_inputs=False).thawed
    <Policy "mixed_float8", recipe=CurrentScaling()>
    """

    def __init__(
        self,
        recipe: Any = None,
        scales: str = "tensor",
        static_inputs: bool = True,
    ) -> None:
        super().__init__("mixed_float8", recipe)
        self.scales = checks.choice("scales", scales, SCALES)
        self.static_inputs = checks.boolean("static_inputs", static_inputs)

    @property
    def thawed(self) -> Policy:
        """The policy that trains."""
        return Policy("mixed_float8", self.recipe)

    def with_recipe(self, recipe: Any) -> FrozenPolicy:
        """Returns the same policy with another recipe."""
        return FrozenPolicy(recipe, self.scales, self.static_inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as JSON-serialisable values."""
        return {
            "recipe": recipes.serialize(self._recipe),
            "scales": self.scales,
            "static_inputs": self.static_inputs,
        }

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FrozenPolicy)
            and self.get_config() == other.get_config()
        )

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.scales, self.static_inputs))

    def __repr__(self) -> str:
        return (
            f'<FrozenPolicy recipe={self._recipe!r}, scales="{self.scales}", '
            f"static_inputs={self.static_inputs}>"
        )
