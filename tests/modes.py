"""How a function is run: eagerly, as a graph, or compiled by XLA."""

import functools

import pytest
import tensorflow as tf

MODES = {
    "eager": lambda function: function,
    "graph": functools.partial(tf.function, autograph=False),
    "xla": functools.partial(tf.function, autograph=False, jit_compile=True),
}
each_mode = pytest.mark.parametrize("run", MODES.values(), ids=MODES)
