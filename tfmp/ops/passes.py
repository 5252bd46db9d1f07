"""`Pass`: one run of an operator, with what it assumes and who looks on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfmp import recipes
from tfmp._core import float8_passes, lengths, probes, scaling
from tfmp._support import checks
from tfmp.ops import operand_arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """What the argument `amax` of an operator can be, for more than a tensor.

    Args:
        amax: float32 of shape `[3]`, for delayed scaling: the amax to assume
            for the activation, the weight and the gradient of the result; see
            `einsum`.  None for current scaling.  A variable is read by each
            operator that the pass is given to.
        training: whether `amax` holds for gradients too, and a role not
            observed yet uses a prior.  If not, gradients are scaled by their
            own amax, and so are inputs not observed yet.
        probe: a `tfmp.ops.Probe`, which takes in statistics of what is
            quantized, or None.
        take_in: a function that the backward pass hands the observed amax,
            float32 of shape `[3]`; or None.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if `amax` has another shape.

    >>> from tfmp import ops
    >>> evaluation = ops.Pass(amax=[1.0, 1.0, 0.0], training=False)
    >>> y = ops.matmul(tf.ones([2, 4]), tf.ones([4, 3]), amax=evaluation)
    >>> y.numpy().tolist()
    [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """

    amax: Any = None
    training: bool = True
    probe: probes.Probe | None = None
    take_in: Callable[[tf.Tensor], None] | None = None

    def __post_init__(self) -> None:
        checks.boolean("training", self.training)
        kind = probes.Probe | None
        checks.instance("probe", self.probe, kind, "a tfmp.ops.Probe or None")
        if self.take_in is not None and not callable(self.take_in):
            raise TypeError(
                "`take_in` must be a function or None. "
                f"Received: {self.take_in!r}"
            )
        if self.amax is not None:
            _checked_amax(self.amax)

    @property
    def assumed(self) -> tf.Tensor:
        """The amax to assume, zeros if there is none.

        A variable is read here, so that each use gets what it then holds.
        """
        return tf.zeros([3]) if self.amax is None else _checked_amax(self.amax)

    def kernel(self, name: str, given: Any) -> tf.Tensor:
        """Returns the argument that is the weight, checked."""
        return operand_arguments.operand(name, given)

    def contract(
        self,
        what: float8_passes.Bilinear,
        inputs: tf.Tensor,
        kernel: tf.Tensor,
        recipe: recipes.Recipe,
    ) -> tf.Tensor:
        """Multiplies inputs and kernel."""
        return lengths.contract(
            what,
            inputs,
            kernel,
            recipe,
            amax=self.assumed,
            training=self.training,
            probe=self.probe,
            take_in=self.take_in,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenPass(Pass):
    """A pass of a layer whose kernel is bytes of FP8.

    Args:
        kernel_scale: that it was quantized by, float32 scalar.
        inputs_scale: that of the inputs; None for that of their own amax.
    """

    kernel_scale: Any = 1.0
    inputs_scale: Any = None

    def kernel(self, name: str, given: Any) -> tf.Tensor:
        """Returns the bytes."""
        return tf.convert_to_tensor(given, tf.uint8)

    def contract(
        self,
        what: float8_passes.Bilinear,
        inputs: tf.Tensor,
        kernel: tf.Tensor,
        recipe: Any,
    ) -> tf.Tensor:
        """Multiplies inputs and the kernel that the bytes stand for."""
        scale = self.inputs_scale
        return lengths.contract_frozen(
            what,
            inputs,
            kernel,
            recipe,
            tf.convert_to_tensor(self.kernel_scale),
            None if scale is None else tf.convert_to_tensor(scale),
        )


def of(amax: Any) -> Pass:
    """Returns the argument `amax` of an operator as a `Pass`."""
    return amax if isinstance(amax, Pass) else Pass(amax)


def _checked_amax(amax: Any) -> tf.Tensor:
    amax = scaling.as_tensor("amax", amax)
    if amax.dtype != tf.float32:
        raise TypeError(
            f"`amax` must be float32. Received: dtype {amax.dtype.name}"
        )
    if not amax.shape.is_compatible_with([3]):
        raise ValueError(
            f"`amax` must have shape [3]. Received: shape {amax.shape}"
        )
    known = amax.shape.is_fully_defined()
    return amax if known else tf.ensure_shape(amax, [3])


def recipe_of(run: Pass, given: Any) -> recipes.Recipe:
    """Finds the recipe of a pass, by default one that fits its amax.

    Args:
        run: the pass.
        given: the argument `recipe` of an operator.

    Raises:
        TypeError: if it is no recipe.
        ValueError: if it needs an amax and there is none, or emulates, of
            which a probe measures nothing.
    """
    if given is None:
        given = "current" if run.amax is None else "delayed"
    found = recipes.get(given)
    delayed = any(found.is_delayed(role) for role in recipes.ROLES)
    if run.amax is None and delayed and not isinstance(run, FrozenPass):
        raise ValueError(
            "`amax` must be given for a recipe with delayed scaling: a float32 "
            f"tensor of shape [3]. Received: amax=None, recipe={found!r}"
        )
    if run.probe is not None and found.emulates:
        raise ValueError(
            "`probe` must be None for a recipe that emulates. "
            f"Received: probe={run.probe!r}, recipe={found!r}"
        )
    return found
