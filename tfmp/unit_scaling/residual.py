"""Residual connections that keep a standard deviation of 1."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfmp._support import checks
from tfmp.unit_scaling import factors
from tfmp.unit_scaling.gradient_scaling import scale_backward, scale_forward


def residual_tau(index: int, depth: int, attention: float = 1.0) -> float:
    """Returns the weight of a residual branch of a Transformer.

        tau = weight / sqrt(depth / 2 + sum(weight**2 of the branches before))

    by which the embedding gives as much to the result as all branches do that
    are no attention, times `attention` as all that are.  Branches take turns,
    attention first.

    Args:
        index: of the branch, from 0.
        depth: how many branches there are: two a block.
        attention: the standard deviation of what attention gives, by that of
            the other branches; from 2**-16 to 2**16.

    Raises:
        TypeError, ValueError: if an argument is no such number.

    Source: arXiv 2407.17465, appendix G.

    >>> residual_tau(0, 8)
    0.5
    """
    checks.integer("depth", depth, 1)
    checks.integer("index", index, 0, depth - 1)
    ratio = checks.number("attention", attention, 2.0**-16, 2.0**16)
    other = math.sqrt(2 / (1 + ratio**2))
    weights = ratio * other, other
    before = sum(weights[i % 2] ** 2 for i in range(index))
    return weights[index % 2] / math.sqrt(depth / 2 + before)


def residual_split(x: Any, tau: float = 1.0) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits a tensor into what a branch gets and what it is added to.

    The gradients of both are added with the weights of `residual_add`, here
    and not there, so that those in the branch have a standard deviation of 1.

    Args:
        x: floating-point tensor.
        tau: as of `residual_add`.

    Returns:
        The inputs of the branch, and what goes past it.

    Source: arXiv 2407.17465, section 4.1 and appendix B.

    >>> [float(each) for each in residual_split(3.0)]
    [3.0, 3.0]
    """
    own, past = factors.residual(_tau(tau))
    return scale_backward(x, own), scale_backward(x, past)


def residual_add(branch: Any, past: Any, tau: float = 1.0) -> tf.Tensor:
    """Adds a branch and what went past it.

        y = (tau * branch + past) / sqrt(1 + tau**2)

    Args:
        branch: what the branch made of the first result of `residual_split`.
        past: the second, of the same shape.
        tau: the weight of the branch, from 2**-16 to 2**16.

    Source: arXiv 2407.17465, section 4.1 and appendix B.

    >>> x = tf.constant([1.0, -1.0])
    >>> branch, past = residual_split(x)
    >>> residual_add(branch, past).numpy().round(2).tolist()
    [1.41, -1.41]
    """
    own, rest = factors.residual(_tau(tau))
    return scale_forward(branch, own) + scale_forward(past, rest)


def _tau(given: float) -> float:
    return checks.number("tau", given, 2.0**-16, 2.0**16)


@keras.saving.register_keras_serializable("tfmp.unit_scaling")
class Residual(keras.layers.Layer):
    """A branch, added to what it gets, as a layer.

        y = (tau * branch(x) + x) / sqrt(1 + tau**2)

    with the gradients of `residual_split`.

    Args:
        branch: a layer or model whose result has the shape of its input.
        tau: as of `residual_add`; `residual_tau` has those of a Transformer.
        **kwargs: those of `keras.layers.Layer`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.

    Source: arXiv 2407.17465, section 4.1 and appendix B.

    >>> Residual(keras.layers.ReLU())(keras.ops.ones([1, 2])).numpy().tolist()
    [[1.4142135381698608, 1.4142135381698608]]
    """

    def __init__(self, branch: Any, tau: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        kind = keras.layers.Layer
        self.branch = checks.instance("branch", branch, kind, "a Keras layer")
        self.tau = _tau(tau)

    def build(self, input_shape: Any) -> None:
        """Builds the branch."""
        if not self.branch.built:
            self.branch.build(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        """Runs the branch, and adds."""
        x, past = residual_split(inputs, self.tau)
        return residual_add(self.branch(x), past, self.tau)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, the branch serialised."""
        branch = keras.saving.serialize_keras_object(self.branch)
        return {**super().get_config(), "branch": branch, "tau": self.tau}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Residual:
        """Makes the layer of a config."""
        branch = keras.saving.deserialize_keras_object(config["branch"])
        return cls(**{**config, "branch": branch})
