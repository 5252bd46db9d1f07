"""Products of FP8 operands on a CPU, against NumPy in float64."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tfmp._core import cpu_stablehlo, equations, stablehlo

E4M3 = tf.dtypes.experimental.float8_e4m3fn
E5M2 = tf.dtypes.experimental.float8_e5m2
CASES = {
    "output": ("ab,bc->ac", (6, 8), (8, 5)),
    "input_grad": ("ac,bc->ab", (6, 5), (8, 5)),
    "kernel_grad": ("ab,ac->bc", (6, 8), (6, 5)),
    "two contracted": ("abc,abd->cd", (3, 4, 8), (3, 4, 5)),
    "kernel of heads": ("abc,cde->abde", (2, 3, 8), (8, 4, 5)),
    "its input_grad": ("abde,cde->abc", (2, 3, 4, 5), (8, 4, 5)),
    "scores": ("aecd,abcd->acbe", (2, 4, 3, 8), (2, 5, 3, 8)),
    "values": ("acbe,aecd->abcd", (2, 3, 5, 4), (2, 4, 3, 8)),
    "dot": ("a,a->", (7,), (7,)),
    "outer": ("a,b->ab", (7,), (5,)),
}


def product(case, lhs, rhs, known=True):
    """Returns the product, and the function of it for XLA."""
    contraction = equations.parse(*CASES[case]).contraction
    specs = [
        tf.TensorSpec([*x.shape] if known else [None, *x.shape[1:]], x.dtype)
        for x in (lhs, rhs)
    ]
    function = tf.function(
        lambda a, b: stablehlo.dot_general(a, b, contraction, tf.float32, True),
        input_signature=specs,
        jit_compile=True,
        autograph=False,
    )
    return contraction, function


def operands(case, dtypes=(E5M2, E4M3)):
    random = np.random.default_rng(0)
    return [
        tf.cast(random.standard_normal(shape), dtype)
        for shape, dtype in zip(CASES[case][1:], dtypes, strict=True)
    ]


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_product(case, known):
    lhs, rhs = operands(case)
    contraction, function = product(case, lhs, rhs, known)
    wide = [np.asarray(x.numpy(), "float64") for x in (lhs, rhs)]
    labels = f"{contraction.lhs},{contraction.rhs}->{contraction.natural}"
    expected = np.einsum(labels, *wide)
    found = function(lhs, rhs).numpy()
    assert found.shape == expected.shape
    # Products are exact; a sum of eight rounds seven times.
    tolerance = 8 * 2.0**-24 * np.einsum(labels, *map(np.abs, wide))
    assert np.all(np.abs(found - expected) <= tolerance)


def test_every_float8_value_is_widened_exactly():
    codes = tf.constant(np.arange(256, dtype="uint8")[:, np.newaxis])
    for dtype in (E4M3, E5M2):
        values = stablehlo.bitcast(codes, dtype)
        one = tf.cast([[1.0]], dtype)
        found = tf.function(
            lambda a, b: stablehlo.dot_general(
                a, b, equations.Contraction("ab", "bc", "ac"), tf.float32, True
            ),
            jit_compile=True,
        )(values, one)
        np.testing.assert_array_equal(found, tf.cast(values, tf.float32))


@pytest.mark.parametrize("dtypes", [(E4M3, E4M3), (tf.bfloat16, E5M2)])
def test_what_a_cpu_and_a_gpu_are_given(dtypes):
    lhs, rhs = operands("kernel_grad", dtypes)
    _, function = product("kernel_grad", lhs, rhs)
    write = function.experimental_get_compiler_ir(lhs, rhs)
    cpu = write(stage="hlo")
    (line,) = [line for line in cpu.splitlines() if " dot(" in line]
    assert re.search(r"= f32\[8,5\].* dot\(", line)
    assert "lhs_contracting_dims={1}, rhs_contracting_dims={0}" in line
    assert cpu.count("bf16[8,6]") and "opt-barrier" in cpu
    gpu = write(stage="hlo", platform_name="GPU")
    assert "opt-barrier" not in gpu and "transpose" not in gpu


def test_operands_in_order_are_not_moved():
    for case in ("output", "input_grad"):
        lhs, rhs = operands(case)
        _, function = product(case, lhs, rhs)
        cpu = function.experimental_get_compiler_ir(lhs, rhs)(stage="hlo")
        assert "transpose" not in cpu and "opt-barrier" not in cpu


def test_float32_operands_are_left_alone():
    x = tf.ones([2, 2])
    _, function = product("output", x, x)
    assert "bf16" not in function.experimental_get_compiler_ir(x, x)("hlo")


def test_lines_of_unknown_lengths():
    lines, name = cpu_stablehlo.lines(
        equations.Contraction("abc", "abd", "cd"),
        (None, 3, 8),
        (None, 3, 5),
        ("f8E4M3FN", "f8E5M2", "bf16"),
    )
    text = "\n".join(lines)
    assert lines[-1].startswith(name) and "-> tensor<8x5xbf16>" in lines[-1]
    assert "get_dimension_size %a, dim = 0" in text
    assert "tensor<8x?xbf16>, tensor<?x5xbf16>) -> tensor<8x5xf32>" in text


def test_every_platform_is_named():
    """One that is not would get what is for CPUs, and no word of it."""
    x = tf.ones([2, 2], tf.bfloat16)
    _, function = product("output", x, x)
    nodes = function.get_concrete_function().graph.as_graph_def().node
    (module,) = [node for node in nodes if node.op == "XlaCallModule"]
    names = list(module.attr["platforms"].list.s)
    assert names == [b"CPU", b"CUDA", b"ROCM", b"TPU"]


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_every_fp8_value_in_a_product_of_one_row(dtype, rows):
    """By the sum of one row, and by the product of several."""
    codes = tf.reshape(tf.range(256), [16, 16])
    codes = tf.cast(codes, tf.uint8)
    contraction = equations.Contraction("ab", "bc", "ac")

    @tf.function(
        jit_compile=True,
        input_signature=[tf.TensorSpec([rows, 16], tf.bfloat16)],
    )
    def product(x):
        kernel = stablehlo.bitcast(codes, dtype)
        return stablehlo.dot_general(x, kernel, contraction, tf.float32, True)

    values = tf.cast(stablehlo.bitcast(codes, dtype), tf.float32)
    finite = np.isfinite(values).all(axis=0)
    for row in range(16):
        x = tf.one_hot([row] * 3, 16, dtype=tf.bfloat16)
        for count in (1,) if rows else (0, 1, 3):
            found = product(x[:count]).numpy()
            assert found.shape == (count, 16)
            expected = np.broadcast_to(values[row], found.shape)
            assert np.array_equal(found[:, finite], expected[:, finite])
            assert not np.isfinite(found[:, ~finite]).any()
