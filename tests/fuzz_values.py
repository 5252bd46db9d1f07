"""Bad values for the arguments of a public function, as strategies.

A value is drawn as a `Value`: how to make it, so that each try has its own,
and TensorFlow starts only where a value needs it.
"""

from __future__ import annotations

import decimal
import fractions
import math
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

import tfmp
from tfmp import hardware, policies

Value = Callable[[], Any]
FP8 = (tf.dtypes.experimental.float8_e4m3fn, tf.dtypes.experimental.float8_e5m2)
DTYPES = (
    *(tf.float32, tf.float16, tf.bfloat16, tf.float64, *FP8),
    *(tf.int8, tf.int32, tf.int64, tf.uint8, tf.bool, tf.string),
    *(tf.complex64, tf.complex128),
)
ARRAYS = (
    "float32",
    "float64",
    "int64",
    "bool",
    "complex64",
    "O",
    "U3",
    "M8[s]",
)
# No "/" at the front: a path of a try stays in the folder of the tries.
WORDS = (
    *("", " ", "None", "E4M4", "e5m2 ", "mixed_float9", "MIXED_FLOAT8"),
    *("größe", "ﬂoat32", "\ud800", "\0", "a/b", ".", "(", "x" * 300, "ab,bc"),
    *(
        "float8_e4m3fn",
        "int8",
        "float32",
        "dense",
        "->",
        "...",
        "%s{x}",
        "a{99999999999}",
        "(" * 3000,
    ),
)


class Odd:
    """Answers nothing; its class is a value too."""

    def __repr__(self) -> str:
        return "Odd()"


def nested(depth: int) -> list[Any]:
    """Returns an empty list in a list in a list ..."""
    return [] if depth == 0 else [nested(depth - 1)]


def tensor(dtype: tf.DType, shape: list[int]) -> tf.Tensor:
    """Returns a tensor of zeros, or empty strings."""
    if dtype in FP8:
        return tf.cast(tf.zeros(shape), dtype)
    return tf.zeros(shape, dtype)


def leaked() -> tf.Tensor:
    """Returns a symbolic tensor of a graph that is gone."""
    with tf.Graph().as_default():
        return tf.zeros([2, 3])


SCALARS = (
    *(None, True, False, 0, 1, -1, 16, 2**31, 2**63, -(10**400), 10**400),
    *(0.0, 0.5, 1.0, -2.0, 1e-320, 1e300, math.nan, math.inf, -math.inf, 1j),
    *(fractions.Fraction(1, 3), decimal.Decimal("NaN"), b"", b"E4M3", ...),
    *(np.float32(1.5), np.float64(np.nan), np.int64(3), np.bool_(True)),
    *(np.str_("E4M3"), np.datetime64("nat"), NotImplemented, int, str, Odd),
    *(keras.layers.Dense, tf.float32, tf, len, np.dtype("float32")),
)
MADE: tuple[Value, ...] = (
    *(list, dict, set, tuple, object, Odd, Exception, frozenset, bytearray),
    *(lambda d=d: nested(d) for d in (1, 3, 40)),
    lambda: [[1.0], [2.0, 3.0]],
    lambda: [1, "a", None],
    lambda: {"a": 1},
    lambda: {1: "a", (): []},
    lambda: {"class_name": "DelayedScaling", "config": {"margin": -1}},
    lambda: {"class_name": [], "config": None},
    lambda: {"name": "mixed_float8", "recipe": 3},
    lambda: [math.nan] * 3,
    lambda: (x for x in range(3)),
    lambda: range(3),
    lambda: lambda *given, **named: Odd(),
    lambda: types.SimpleNamespace(name="float32", dtype="float32", shape=3),
    lambda: types.SimpleNamespace(name="E4M3", shape=None),
    lambda: tf.ragged.constant([[1.0], [2.0, 3.0]]),
    lambda: tf.sparse.from_dense([[1.0, 0.0]]),
    lambda: tf.IndexedSlices(tf.ones([1, 2]), [0], [3, 2]),
    lambda: keras.KerasTensor((None, 3)),
    lambda: keras.Input([4], dtype="int32"),
    lambda: tf.TensorSpec(None),
    lambda: tf.TensorSpec([None, 3], tf.int32),
    lambda: tf.TensorShape(None),
    lambda: tf.TensorShape([2, None]),
    lambda: tf.Variable([1, 2]),
    lambda: tf.Variable([1.0, 2.0, 3.0]),
    lambda: tf.data.Dataset.range(2),
    lambda: tf.constant(math.nan),
    lambda: keras.Variable([1.0, 2.0]),
    lambda: keras.InputSpec(shape=(1, 2)),
    lambda: keras.layers.Dense(2),
    lambda: keras.Sequential(),
    lambda: keras.optimizers.Adam(),
    lambda: keras.optimizers.SGD(loss_scale_factor=2.0),
    lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
    lambda: keras.DTypePolicy("mixed_float16"),
    lambda: keras.dtype_policies.DTypePolicyMap(),
    lambda: tfmp.PrecisionMap({"a": "float32"}),
    lambda: tfmp.Policy("mixed_float8"),
    lambda: tfmp.recipes.DelayedScaling(),
    lambda: tfmp.formats.E4M3,
    lambda: tfmp.formats.BFLOAT16,
    lambda: tfmp.cost_model.TARGETS["l4"],
    lambda: tfmp.cost_model.Product(0, 0, 0),
    lambda: hardware.Hardware(),
    lambda: np.array(None),
    lambda: np.ma.masked_array([1.0], [True]),
    leaked,
)


def constant(value: Any) -> Value:
    """Returns what makes a value that nothing changes."""
    return lambda: value


def values(drawn: st.SearchStrategy[Any]) -> st.SearchStrategy[Value]:
    """Returns a strategy of values from one of what they are."""
    return drawn.map(constant)


SHAPES = st.lists(st.integers(0, 4), max_size=6)
TEXT = st.text(st.characters(exclude_characters="/"), max_size=6)
ATOMS = st.one_of(
    st.integers(), st.floats(), TEXT, st.none(), st.booleans(), st.binary()
)
TENSORS: st.SearchStrategy[Value] = st.builds(
    lambda dtype, shape: lambda: tensor(dtype, shape),
    st.sampled_from(DTYPES),
    SHAPES,
)
ANYTHING: st.SearchStrategy[Value] = st.one_of(
    values(st.sampled_from(SCALARS)),
    values(st.sampled_from(WORDS)),
    st.sampled_from(MADE),
    TENSORS,
    st.builds(
        lambda dtype, shape: lambda: np.zeros(shape, dtype),
        st.sampled_from(ARRAYS),
        SHAPES,
    ),
    values(ATOMS),
    values(st.lists(ATOMS, max_size=4)),
    values(st.lists(st.integers(-1, 4), max_size=6)),
    values(st.dictionaries(TEXT, ATOMS, max_size=2)),
    values(st.tuples(ATOMS, st.lists(ATOMS, max_size=2))),
)


def _wrong(name: str, letter: int, how: int) -> str:
    at = letter % max(1, len(name))
    cut = name[:at] + name[at + 1 :]
    return (name, cut, name.upper(), f"{name} ", f"{name}{name[at:]}")[how % 5]


def names(*allowed: str) -> st.SearchStrategy[Value]:
    """Returns near misses of names: one by one, and in lists."""
    small = st.integers(0, 99)
    near = st.builds(_wrong, st.sampled_from(allowed), small, small)
    return values(near | st.lists(near, max_size=3).map(tuple))


INTEGERS = values(
    st.integers(-3, 40)
    | st.integers(-3, 3).map(float)
    | st.lists(st.integers(-1, 3), max_size=4)
)
NUMBERS = values(st.floats(-10, 10) | st.floats() | st.integers(-5, 5))
PAIRS = values(st.tuples(*[st.floats(-10, 10) | st.integers(-5, 5)] * 2))
SPECS: st.SearchStrategy[Value] = st.builds(
    lambda shape, dtype: lambda: tf.TensorSpec(shape, dtype),
    st.lists(st.none() | st.integers(0, 17), max_size=6) | st.none(),
    st.sampled_from(DTYPES),
)
SYMBOLIC: st.SearchStrategy[Value] = st.builds(
    lambda shape, dtype: lambda: keras.KerasTensor(shape, dtype.name),
    st.lists(st.none() | st.integers(0, 17), max_size=6),
    st.sampled_from(DTYPES),
)
FORMATS = names(
    *(f.name for f in (*tfmp.formats.ALL, *tfmp.formats.BLOCKS)),
    *("float8_e5m2", "float16"),
)
ROUNDING = names(*tfmp.formats.ROUNDINGS)
POLICY = names("auto", *policies.NAMES)
PRODUCTS = names(*tfmp.recipes.PRODUCTS)
ROLES = names(*tfmp.recipes.ROLES)
RECIPE = names(*tfmp.recipes.PRESETS)
# More levels than a tensor has axes end the process, in Keras' layers too.
DEEP: st.SearchStrategy[Value] = st.just(lambda: nested(300))
INPUTS = TENSORS | SPECS
OPERANDS = INPUTS | DEEP
MAPS = values(
    st.dictionaries(
        st.sampled_from(["head", "(", "b/*", "body", "", 3]),
        st.sampled_from(["float32", "float", "mixed_float8", 3, None]),
    )
)


def other_variables() -> list[Any]:
    """Returns the variables of a model that nothing else knows."""
    layer = tfmp.layers.Dense(4, dtype="mixed_float8")
    layer.build((None, 16))
    return layer.trainable_variables


VARIABLES: st.SearchStrategy[Value] = st.sampled_from(
    [
        other_variables,
        lambda: [v.value for v in other_variables()],
        lambda: other_variables()[:2],
        lambda: [*other_variables()] * 2,
        lambda: [None] * 3,
    ]
)
# A function that is handed over may raise what it likes.
NOT_CALLED = ("filter", "function")


def of(name: str) -> st.SearchStrategy[Value]:
    """Returns bad values for an argument of some name."""
    every = NEAR[name] | ANYTHING if name in NEAR else ANYTHING
    if name in NOT_CALLED:
        return every.filter(lambda make: not callable(make()))
    return every


# By the name of an argument, which has one meaning all over tfmp.
NEAR: dict[str, st.SearchStrategy[Value]] = {
    **dict.fromkeys(("a", "b", "kernel", "amax", "x", "scale", "q"), OPERANDS),
    **dict.fromkeys(("reference", "approximation"), OPERANDS),
    **dict.fromkeys(("var_list", "trainable_variables"), VARIABLES),
    **dict.fromkeys(("variables", "gradients", "grads"), VARIABLES),
    **dict.fromkeys(("margin", "amax_history_len", "batch_size"), INTEGERS),
    **dict.fromkeys(("length", "m", "k", "n", "batch", "every"), INTEGERS),
    **dict.fromkeys(("strides", "dilation_rate", "units"), INTEGERS),
    **dict.fromkeys(("filters", "kernel_size", "groups", "axis"), INTEGERS),
    **dict.fromkeys(("num_heads", "key_dim", "head_dim"), INTEGERS),
    **dict.fromkeys(("num_query_heads", "num_key_value_heads"), INTEGERS),
    **dict.fromkeys(("output_shape", "attention_axes", "units"), INTEGERS),
    **dict.fromkeys(("bfloat16", "float8", "bandwidth", "launch"), NUMBERS),
    **dict.fromkeys(("initial_scale",), NUMBERS),
    **dict.fromkeys(("factors", "bounds"), NUMBERS | PAIRS),
    **dict.fromkeys(("growth_steps",), INTEGERS),
    **dict.fromkeys(("policy", "name"), POLICY),
    **dict.fromkeys(("role", "current"), ROLES),
    **dict.fromkeys(("product", "products", "high_precision"), PRODUCTS),
    **dict.fromkeys(("precision", "policies"), MAPS | POLICY),
    "identifier": FORMATS | POLICY | RECIPE,
    "dtype": FORMATS | POLICY,
    "default": POLICY,
    "recipe": RECIPE,
    "fp8_format": names("HYBRID", "E4M3"),
    "amax_compute_algo": names("max", "most_recent"),
    "target": names(*tfmp.cost_model.TARGETS),
    "kind": names(*hardware.KINDS),
    "cpu_features": names(*hardware.CPU_FEATURES),
    "convert": names("auto", "all"),
    "filter": names("auto", "all", "body", "head"),
    "skip": names("first", "last"),
    "format": FORMATS | names("saved_model", "litert", "onnx"),
    **dict.fromkeys(("forward", "backward", "grads"), FORMATS),
    **dict.fromkeys(("rounding", "backward_rounding"), ROUNDING),
    **dict.fromkeys(("exponent_bits", "mantissa_bits", "bias"), INTEGERS),
    **dict.fromkeys(("block_size", "code", "seed"), INTEGERS),
    "specials": names("ieee", "fn", "fnuz", "none"),
    "scale_rounding": names("floor", "ceil", "rceil", "even", "nearest"),
    "kernels": names("float8", "quantized", "float"),
    "padding": names("valid", "same", "causal"),
    "data_format": names("channels_last", "channels_first"),
    "equation": names("ab,bc->ac", "...a,ab->...b", "ab,bc", "aab,bc->ac"),
    "inner_optimizer": names("adam", "sgd"),
    "inputs": INPUTS | SYMBOLIC,
    "input_shape": values(
        st.lists(st.none() | st.integers(-1, 17), max_size=6)
    ),
}
