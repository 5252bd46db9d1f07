"""The global policy, and what becomes of stock layers under it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tfmp import policies
from tfmp.conversion import stock_layers


def set_global_policy(policy: Any, convert: Any = None) -> None:
    """Sets the policy of all layers that are built without one.

    Args:
        policy: a `Policy`, a `PrecisionMap`, any other Keras dtype policy, or
            a name.
        convert: what becomes, under a policy of FP8, of stock Keras layers
            that are made from now on.  None: they compute in 16 bits, and the
            first one says so in a warning; False: no warning.  True: they
            are converted when they are built, as by `tfmp.convert`; `"auto"`
            or `"all"`: as by its `filter`.  It holds until the global policy
            is set again; a new thread starts without it.

    Raises:
        TypeError: if `policy` is neither a policy nor a name.
        ValueError: if the name is unknown, or `convert` is not allowed.

    >>> set_global_policy("mixed_float8", convert="all")
    >>> layer = keras.layers.Dense(4)
    >>> layer(keras.ops.ones([2, 8])).dtype, type(layer).__module__
    (tf.bfloat16, 'tfmp.layers.dense')
    >>> set_global_policy("float32")
    """
    policy = policies.checked(policy)
    stock_layers.follow(policy, convert)
    policies.set_global_policy(policy)


@contextlib.contextmanager
def policy_scope(
    policy: Any, convert: Any = None
) -> Iterator[keras.DTypePolicy]:
    """Sets the global policy within a `with` block, also if that fails.

    Args:
        policy: as for `set_global_policy`.
        convert: as for `set_global_policy`.

    Yields:
        The policy.

    >>> with policy_scope("mixed_float16") as policy:
    ...     layer = keras.layers.Dense(1)
    >>> layer.compute_dtype, policies.global_policy().name
    ('float16', 'float32')
    """
    before = stock_layers.present()
    with policies.policy_scope(policy) as policy:
        try:
            stock_layers.follow(policy, convert)
            yield policy
        finally:
            stock_layers.give_back(before)
