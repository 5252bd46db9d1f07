"""What makes the products of a layer measurable: a place for probes."""

from __future__ import annotations

import types
from collections.abc import Mapping

from tfmp import recipes
from tfmp._core import probes

NO_PROBES: Mapping[str, probes.Probe] = types.MappingProxyType({})


class Measured:
    """Mixin for a layer that hands the probe it is given to its operators.

    Attributes:
        float8_probes: by the name of the operator; none, but while the step
            of a monitor is traced.
    """

    float8_probes = NO_PROBES

    def float8_operators(self) -> dict[str, recipes.Recipe]:
        """Returns the recipe of each operator that quantizes, by its name.

        The only operator of a layer has the name "".
        """
        raise NotImplementedError

    def float8_probe(
        self, name: str, training: bool | None
    ) -> probes.Probe | None:
        """Returns an operator's probe; statistics are of training steps."""
        return None if training is False else self.float8_probes.get(name)
