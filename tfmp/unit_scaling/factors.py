"""What keeps a standard deviation of 1, for each operator; no TensorFlow.

An operator has a factor for its result, and one for each gradient.  With the
constraint `"to_output_scale"` gradients get the factor of the result, which
keeps them exact up to one factor for the whole network; with None each gets
its own, which keeps its standard deviation.  The gradients of parameters are at
the end of their way, and always get their own.

Those that have no closed form are fitted between two limits,

    exp(alpha * log(upper) + (1 - alpha) * log(lower))

Source: arXiv 2407.17465, appendix B, table 8 and the section before it.
"""

from __future__ import annotations

import math

from tfmp._support import checks

TO_OUTPUT_SCALE = "to_output_scale"


def checked(constraint: str | None) -> str | None:
    """Returns a constraint.

    Raises:
        TypeError, ValueError: if it is neither `"to_output_scale"` nor None.
    """
    if constraint is None:
        return None
    return checks.choice("constraint", constraint, (TO_OUTPUT_SCALE,))


def constrained(
    constraint: str | None, output: float, gradient: float
) -> tuple[float, float]:
    """Returns the factors of a result and of the gradient of an input."""
    exact = checked(constraint) is not None
    return output, output if exact else gradient


def gelu() -> tuple[float, float]:
    """Returns the factors of GELU's result and gradient."""
    return (
        _between(0.8, 2.0, math.sqrt(2 / (1 - 1 / math.pi))),
        _between(0.8, 2.0, math.sqrt(2)),
    )


def silu() -> tuple[float, float]:
    """Returns the factors of SiLU's result and gradient."""
    return (
        _between(0.8, 2.0, math.sqrt(2 / (1 - 1 / math.pi))),
        _between(0.5, 2.0, math.sqrt(2)),
    )


def silu_glu() -> float:
    """Returns the factor of `x * silu(gate)`, and of both gradients."""
    return _between(0.5, 2.0, math.sqrt(2))


def attention(length: int, key_dim: int, causal: bool) -> float:
    """Returns the factor of what attention gives, softmax(q k / key_dim) v.

    Args:
        length: of the keys.
        key_dim: the size of a head.
        causal: whether a query sees the keys before it alone.
    """
    seen = max(1.0, math.log(length)) if causal else 1.0
    lower = min(1.0, math.sqrt(seen / length))
    return 1 / _between(1 / (1 + 4 * key_dim), lower, 1.0)


def residual(tau: float) -> tuple[float, float]:
    """Returns the factors of a branch and of what is added to it.

    Args:
        tau: the standard deviation of the branch by that of the rest.
    """
    whole = math.sqrt(1 + tau**2)
    return tau / whole, 1 / whole


def _between(alpha: float, lower: float, upper: float) -> float:
    return math.exp(alpha * math.log(upper) + (1 - alpha) * math.log(lower))
