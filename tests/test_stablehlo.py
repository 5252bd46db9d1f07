"""tfmp._core.stablehlo: the modules' text, and what running them gives."""

import functools
import math
import re

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from modes import MODES

from tfmp._core import stablehlo
from tfmp._core.equations import Contraction

E4M3 = tf.dtypes.experimental.float8_e4m3fn
E5M2 = tf.dtypes.experimental.float8_e5m2
MATMUL = Contraction("ij", "jk", "ik")


def call(contraction, lhs, rhs, dtype, precise):
    """Returns the one XlaCallModule that multiplies two tensors' specs."""

    def function(lhs, rhs):
        return stablehlo.dot_general(lhs, rhs, contraction, dtype, precise)

    graph = MODES["graph"](function).get_concrete_function(lhs, rhs).graph
    (operation,) = (
        op for op in graph.get_operations() if op.type == "XlaCallModule"
    )
    return operation


def text(*arguments):
    return call(*arguments).get_attr("module").decode()


def test_module_of_static_shapes():
    lhs, rhs = tf.TensorSpec([4, 8], E4M3), tf.TensorSpec([8, 2], E4M3)
    written = text(MATMUL, lhs, rhs, tf.bfloat16, False)
    branch, end = "({ ", " stablehlo.return"
    head, rest = " ".join(written.split()).split(branch, 1)
    on_cpu, rest = rest.split(end, 1)  # tests/test_cpu_products.py has more
    number = r"%v\d+"
    assert re.search(
        rf"{number} = stablehlo.dot_general {number}, {number}, "
        r"contracting_dims = \[1\] x \[0\] "
        r": \(tensor<4x8xbf16>, tensor<8x2xbf16>\) -> tensor<4x2xf32> "
        rf"{number} = stablehlo.convert {number} "
        r": \(tensor<4x2xf32>\) -> tensor<4x2xbf16>$",
        on_cpu,
    )
    rest = re.sub(number, "%v", rest)
    assert head + branch + "..." + end + rest == " ".join(
        """
        module @tfmp attributes {jax.uses_shape_polymorphism = true} {
          func.func public @main(%platform: tensor<i32>
              {jax.global_constant = "_platform_index"},
              %a: tensor<4x8xf8E4M3FN>,
              %b: tensor<8x2xf8E4M3FN>) -> tensor<4x2xbf16> {
            %d = "stablehlo.case"(%platform) ({
              ... stablehlo.return %v : tensor<4x2xbf16>
            }, {
              %d = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0],
                  precision = [DEFAULT, DEFAULT]
                  : (tensor<4x8xf8E4M3FN>, tensor<8x2xf8E4M3FN>)
                  -> tensor<4x2xbf16>
              stablehlo.return %d : tensor<4x2xbf16>
            }) : (tensor<i32>) -> tensor<4x2xbf16>
            return %d : tensor<4x2xbf16>
          }
        }
        """.split()
    )


def test_module_of_unknown_lengths():
    lhs = tf.TensorSpec([None, 3, None, 8], E5M2)
    rhs = tf.TensorSpec([None, 2, 3, 8], E4M3)
    contraction = Contraction("bhqd", "bkhd", "kbqh")
    operation = call(contraction, lhs, rhs, tf.float32, True)
    written = operation.get_attr("module").decode()
    assert "%a: tensor<?x3x?x8xf8E5M2>, %b: tensor<?x2x3x8xf8E4M3FN>" in written
    assert "-> tensor<?x3x?x2xf32>" in written
    assert "batching_dims = [0, 1] x [0, 2]" in written
    assert "contracting_dims = [3] x [3]" in written
    assert "precision = [HIGHEST, HIGHEST]" in written
    assert operation.outputs[0].shape.as_list() == [None, 3, None, 2]
    assert operation.outputs[0].dtype == tf.float32


@pytest.mark.parametrize(("lhs", "rhs"), [(5, 5), (None, 5), (5, None)])
def test_a_length_known_of_one_operand_is_known(lhs, rhs):
    contraction = Contraction("bij", "bjk", "bik")
    specs = tf.TensorSpec([lhs, 2, 3], E4M3), tf.TensorSpec([rhs, 3, 4], E4M3)
    operation = call(contraction, *specs, tf.bfloat16, False)
    assert operation.outputs[0].shape == [5, 2, 4]


def test_scalars():
    spec = tf.TensorSpec([], E4M3)
    written = text(Contraction("", "", ""), spec, spec, tf.bfloat16, False)
    assert "%a: tensor<f8E4M3FN>" in written
    assert "batching_dims" not in written
    assert "contracting_dims = [] x []" in written


@pytest.mark.parametrize(
    ("dtype", "element"),
    [
        (E4M3, "f8E4M3FN"),
        (E5M2, "f8E5M2"),
        (tf.bfloat16, "bf16"),
        (tf.float16, "f16"),
        (tf.float32, "f32"),
    ],
)
def test_element_types(dtype, element):
    lhs, rhs = tf.TensorSpec([2, 2], dtype), tf.TensorSpec([2, 2], E4M3)
    written = text(MATMUL, lhs, rhs, tf.float32, True)
    assert re.search(rf"%a: tensor<2x2x{element}>", written)


LENGTHS = {"b": 2, "h": 3, "i": 4, "j": 5, "k": 6}


@pytest.mark.parametrize(
    ("contraction", "jit_compile"),
    [
        (MATMUL, False),
        (Contraction("ji", "kj", "ki"), True),
        (Contraction("bij", "bjk", "kbi"), False),
        (Contraction("ibjh", "hkbj", "bhik"), True),
        (Contraction("ij", "ij", ""), False),
        (Contraction("i", "j", "ji"), True),
        (Contraction("", "", ""), False),
    ],
)
def test_result_is_in_the_natural_order(contraction, jit_compile):
    """Whole numbers, of two FP8 types: exact, and unknown to the module."""
    lhs, rhs = (
        np.random.default_rng(seed)
        .integers(-8, 9, [LENGTHS[c] for c in labels])
        .astype(dtype)
        for seed, labels, dtype in (
            (0, contraction.lhs, ml_dtypes.float8_e4m3fn),
            (1, contraction.rhs, ml_dtypes.float8_e5m2),
        )
    )
    function = tf.function(
        lambda lhs, rhs: stablehlo.dot_general(
            lhs, rhs, contraction, tf.float32, True
        ),
        input_signature=[
            tf.TensorSpec([None] * lhs.ndim, E4M3),
            tf.TensorSpec([None] * rhs.ndim, E5M2),
        ],
        autograph=False,
        jit_compile=jit_compile,
    )
    equation = f"{contraction.lhs},{contraction.rhs}->{contraction.natural}"
    expected = np.einsum(equation, lhs.astype("float32"), rhs.astype("float32"))
    np.testing.assert_array_equal(function(lhs, rhs), expected)


@pytest.mark.parametrize(
    ("dtype", "rounded"),
    [("float32", 200705.0), ("bfloat16", 200704.0), ("float16", math.inf)],
)
@pytest.mark.parametrize("precise", [False, True])
def test_result_is_rounded_once(dtype, rounded, precise):
    """448 * 448 + 1 fits float32 only; float16 has no room even for half."""
    lhs = np.array([[448, 1]]).astype(ml_dtypes.float8_e4m3fn)
    product = stablehlo.dot_general(
        tf.constant(lhs),
        tf.constant(lhs.T),
        MATMUL,
        tf.as_dtype(dtype),
        precise,
    )
    assert product.dtype.name == dtype
    assert float(tf.cast(product, tf.float32)[0, 0]) == rounded


@pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=lambda d: d.name)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_bitcast_keeps_all_codes(dtype, jit_compile):
    """NaN and negative zero are codes too; the length is unknown."""
    codes = np.arange(256, dtype="uint8").reshape(2, 128)
    there = functools.partial(stablehlo.bitcast, dtype=dtype)
    back = functools.partial(stablehlo.bitcast, dtype=tf.uint8)
    for function, given in (
        (there, codes),
        (back, codes.view(dtype.as_numpy_dtype)),
    ):
        compiled = tf.function(
            lambda x, function=function: function(x),
            input_signature=[tf.TensorSpec([None, 128], given.dtype)],
            autograph=False,
            jit_compile=jit_compile,
        )
        assert compiled(given).dtype in (dtype, tf.uint8)
        assert compiled(given).dtype != given.dtype
        assert compiled(given).numpy().tobytes() == codes.tobytes()


def test_barrier_changes_no_value():
    tensors = [tf.constant([1.5, -0.0, math.inf]), tf.constant(3)]
    for one, other in zip(
        MODES["xla"](stablehlo.barrier)(*tensors), tensors, strict=True
    ):
        assert one.dtype == other.dtype
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_barrier_stands_in_the_program():
    x = tf.ones([3])
    compiled = MODES["xla"](lambda x: stablehlo.barrier(x, 2 * x))
    program = compiled.experimental_get_compiler_ir(x)(stage="hlo")
    assert "opt-barrier" in program


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fence_is_a_barrier(jit_compile):
    """In a plain graph too, with an unknown length."""
    compiled = tf.function(
        stablehlo.fence,
        input_signature=[tf.TensorSpec([None, 2], tf.bfloat16)],
        autograph=False,
        jit_compile=jit_compile,
    )
    x = tf.constant([[1.5, -0.0], [math.inf, 3.0]], tf.bfloat16)
    assert compiled(x).numpy().tobytes() == x.numpy().tobytes()
    write = MODES["xla"](stablehlo.fence).experimental_get_compiler_ir(x)
    assert "opt-barrier" in write(stage="hlo")
