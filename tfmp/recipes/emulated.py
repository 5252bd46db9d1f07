"""Recipes of products on emulated operands, of any format."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfmp import formats
from tfmp._support import checks
from tfmp.recipes.recipe import PRODUCTS, ROLES, Recipe


@dataclasses.dataclass(frozen=True, repr=False)
class Emulated(Recipe):
    """Operands with the values of any format, multiplied in float32.

        y  = e(x)  . e(w)       e = tfmp.ops.emulate, along the axes
        dx = e(dy) . e(w)       that the product sums over
        dw = e(x)  . e(dy)

    What a training step would give on hardware that has the format, at the
    speed of float32 and less: it answers what a format costs in accuracy, and
    never runs in it.  No product counts as FP8, and reports say "emulated".

    A `Format` is scaled by its tensor's own amax, to a power of two, unless it
    has float32's exponents; blocks have their own scales.  There is no state.
    An infinity is not clipped, as long as the format has one, or NaN.

    Args:
        forward: the format of inputs and kernel, or a pair of them: a
            `tfmp.formats` format, its name or dtype; any whose values float32
            has.  `"BFLOAT16"` leaves a bfloat16 tensor as it is.
        backward: that of gradients; None is that of inputs.
        rounding: of inputs and kernel: `"nearest"`, `"toward_zero"` or
            `"stochastic"`.
        backward_rounding: of gradients.
        high_precision: the products whose operands stay in the compute dtype:
            any of `"output"`, `"input_grad"`, `"kernel_grad"`.
        high_precision_projections: those that do so besides in attention's
            projections of query, key, value and output.
        attention: whether attention's products of scores and values are
            emulated too.
        seed: for `"stochastic"`, an integer from 0 to 2**29.  The random
            numbers come from it and from the tensor's values: the same tensor
            is rounded alike, and another step's differently.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is not allowed.

    Source: OCP Microscaling Formats (MX) Specification 1.0; arXiv 2310.10537,
    section 3 (which axes have blocks); arXiv 2509.25149, section 4
    (stochastic rounding of gradients).

    >>> Emulated("MXFP4", "MXFP8_E5M2", backward_rounding="stochastic").grads
    'MXFP8_E5M2'
    """

    forward: Any
    backward: Any = None
    rounding: str = "nearest"
    backward_rounding: str = "nearest"
    high_precision: tuple[str, ...] = ()
    attention: bool = False
    high_precision_projections: tuple[str, ...] = ()
    seed: int = 0

    emulates = True
    observes = False

    def __post_init__(self) -> None:
        self._set("forward", _forward(self.forward))
        if self.backward is not None:
            backward = _known("backward", self.backward)
            same = backward == self.inputs
            self._set("backward", None if same else backward)
        for name in ("rounding", "backward_rounding"):
            checks.choice(name, getattr(self, name), formats.ROUNDINGS)
        for name in ("high_precision", "high_precision_projections"):
            self._set(name, checks.names(name, getattr(self, name), PRODUCTS))
        checks.boolean("attention", self.attention)
        checks.integer("seed", self.seed, 0, 2**29)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def inputs(self) -> Any:
        """The format of inputs, by name if it is known."""
        return self.forward[0] if self._is_pair else self.forward

    @property
    def kernel(self) -> Any:
        """The format of the kernel, by name if it is known."""
        return self.forward[1] if self._is_pair else self.forward

    @property
    def grads(self) -> Any:
        """The format of gradients, by name if it is known."""
        return self.inputs if self.backward is None else self.backward

    @property
    def _is_pair(self) -> bool:
        return isinstance(self.forward, tuple)

    @classmethod
    def _with_formats(
        cls, config: dict[str, Any], roles: dict[str, Any]
    ) -> dict[str, Any]:
        given = {k: v for k, v in roles.items() if v is not None}
        forward = config.get("forward")
        usual = config.get("backward") or forward
        pair = tuple(given.get(role, forward) for role in ("inputs", "kernel"))
        backward = given.get("grads", usual)
        return config | {"forward": pair, "backward": backward}

    def rounding_of(self, role: str) -> str:
        """Returns how the values of a role are rounded."""
        checks.choice("role", role, ROLES)
        return self.backward_rounding if role == "grads" else self.rounding

    def __str__(self) -> str:
        names = dict.fromkeys(self.format(role).name for role in ROLES)
        return f"emulated {', '.join(names)}"


def _forward(given: Any) -> Any:
    """Returns one format for both roles, or a pair."""
    if not isinstance(given, tuple | list):
        return _known("forward", given)
    if len(given) != 2:
        raise ValueError(
            "`forward` must be a format, or two: of inputs and kernel. "
            f"Received: {given!r}"
        )
    inputs, kernel = (
        _known(f"forward[{at}]", each) for at, each in enumerate(given)
    )
    return inputs if inputs == kernel else (inputs, kernel)


def _known(name: str, value: Any) -> Any:
    """Returns the name of a format, or the format if it is one's own."""
    found = formats.representable(name, value)
    return formats.serialize(found) if formats.is_known(found) else found
