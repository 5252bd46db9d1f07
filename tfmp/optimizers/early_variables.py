"""Variables that are made while a step is traced, as if made before it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


@contextlib.contextmanager
def lifted() -> Iterator[None]:
    """Makes variables outside of the functions that are being traced.

    Keras builds an optimizer when the first step is traced.  A `tf.function`
    that has made variables is traced again, with a branch for each variable's
    first value.  A strategy makes variables in its own way, and is left to it.
    """
    if tf.distribute.has_strategy():
        yield
        return
    with tf.init_scope(), tf.variable_creator_scope(_not_by_the_function):
        yield


def _not_by_the_function(next_creator: Callable[..., Any], **named: Any) -> Any:
    return next_creator(
        **{**named, "experimental_enable_variable_lifting": False}
    )
