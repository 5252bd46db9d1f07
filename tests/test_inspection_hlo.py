"""Programs as XLA prints them: what is read, and what becomes of products.

`data/*.hlo.gz` are programs of one training step, two FP8 dense layers and one
of bfloat16: `given` by TensorFlow, and compiled for an H200 in both modes.
"""

from __future__ import annotations

import gzip
import pathlib

import pytest

from tfmp._core import op_names
from tfmp._inspection import arithmetic, hlo, matching

DATA = pathlib.Path(__file__).parent / "data"
FORWARD, INPUT, KERNEL = (
    ("f8e4m3fn", "f8e4m3fn"),
    ("f8e5m2", "f8e4m3fn"),
    ("f8e4m3fn", "f8e5m2"),
)
WIDE = ("bf16", "bf16")
STEP = {
    (2, "output"): FORWARD,
    (2, "kernel_grad"): KERNEL,
    (3, "output"): FORWARD,
    (3, "input_grad"): INPUT,
    (3, "kernel_grad"): KERNEL,
    (4, "output"): WIDE,
    (4, "input_grad"): WIDE,
    (4, "kernel_grad"): WIDE,
}


def kept(name):
    """Returns a program that is kept."""
    with gzip.open(DATA / f"{name}.hlo.gz", "rt") as file:
        return hlo.Program(file.read())


@pytest.mark.parametrize(
    ("name", "kernel", "count"),
    [
        ("given", "xla", 0),
        ("triton", "triton", 25),
        ("cublaslt", "cublaslt", 34),
    ],
)
def test_products_of_a_training_step(name, kernel, count):
    """The gradient of the model's input is computed nowhere."""
    program = kept(name)
    products = program.products()
    found = {
        (
            op_names.layer_of(product.name),
            op_names.product_of(product.name, product.gradient_of),
        ): product.operands
        for product in products
    }
    assert found == STEP and len(products) == len(STEP)
    assert {product.kernel for product in products} == {kernel}
    assert {product.size for product in products} == {"16 x 16 x 16"}
    assert {product.flops for product in products} == {2 * 16**3}
    assert program.kernels == count


def test_fates_of_a_training_step():
    compiled = {mode: kept(mode) for mode in ("triton", "cublaslt")}
    found = matching.fates(kept("given").products(), compiled)
    assert len(found) == len(STEP) and all(fate.is_given for fate in found)
    assert [fate.is_float8 for fate in found].count(True) == 5
    for fate in found:
        assert fate.kernels == {"triton": "triton", "cublaslt": "cublaslt"}
    assert matching.count(found, "triton") == 5


def program(*lines):
    """Returns a program of a few lines, the last of which is its result."""
    text = "\n".join(f"  {line}" for line in lines[:-1])
    return hlo.Program(
        f"ENTRY %main (a: f32[]) -> f32[] {{\n{text}\n  ROOT {lines[-1]}\n}}\n"
    )


A = "%a = f8e4m3fn[4,8]{1,0} parameter(0)"
B = "%b = f8e5m2[8,2]{1,0} parameter(1)"
DOT = (
    "%{0} = bf16[4,2]{{1,0}} dot(%a, %b), lhs_contracting_dims={{1}}, "
    'rhs_contracting_dims={{0}}, metadata={{op_name="{0}"}}'
)
WIDER = [
    A,
    "%w = bf16[4,8]{1,0} convert(%a)",
    "%v = bf16[8,2]{1,0} convert(%b)",
    B,
    DOT.format("x").replace("%a, %b", "%w, %v"),
]


def test_a_product_that_xla_widens_is_not_float8():
    given = program(A, B, DOT.format("x")).products()
    [fate] = matching.fates(given, {"triton": program(*WIDER)})
    assert given[0].is_float8 and not fate.is_float8
    assert fate.outcomes[0].operands == WIDE


def test_one_mode_of_two_is_not_float8():
    both = {
        "triton": program(*WIDER),
        "cublaslt": program(A, B, DOT.format("x")),
    }
    [fate] = matching.fates(program(A, B, DOT.format("x")).products(), both)
    assert not fate.is_float8 and fate.float8_modes == ["cublaslt"]


def test_a_product_that_is_gone():
    gone = program(A, '%y = bf16[4,2]{1,0} fusion(%a), metadata={op_name="x"}')
    [fate] = matching.fates(
        program(A, B, DOT.format("x")).products(), {"m": gone}
    )
    assert fate.kernels == {"m": ""} and not fate.is_float8


def test_a_product_whose_result_is_not_used():
    assert (
        program(A, B, DOT.format("x"), "%c = f32[] constant(1)").products()
        == []
    )


MERGED = """
%fused (p: bf16[4,4]) -> bf16[4,2] {
  %p = bf16[4,4]{1,0} parameter(0)
  ROOT %s = bf16[4,2]{1,0} slice(%p), slice={[0:4], [2:4]}, metadata={op_name="y"}
}

ENTRY %main (a: f8e4m3fn[4,8], c: f8e5m2[8,4]) -> bf16[4,2] {
  %a = f8e4m3fn[4,8]{1,0} parameter(0)
  %c = f8e5m2[8,4]{1,0} parameter(1)
  %d = bf16[4,4]{1,0} dot(%a, %c), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="x/dot.1"}
  ROOT %f = bf16[4,2]{1,0} fusion(%d), kind=kLoop, calls=%fused
}
"""  # noqa: E501


def test_a_product_merged_into_another():
    """XLA names the larger product after one, and slices after each."""
    result = "%r = (bf16[4,2]{1,0}, bf16[4,2]{1,0}) tuple(%x, %y)"
    given = program(A, B, DOT.format("x"), DOT.format("y"), result).products()
    both = matching.fates(given, {"m": hlo.Program(MERGED)})
    assert [fate.given.name for fate in both] == ["x", "y"]
    assert all(fate.is_float8 for fate in both)
    apart = MERGED.replace('op_name="y"', 'op_name="z"')
    [x, y] = matching.fates(given, {"m": hlo.Program(apart)})
    assert x.is_float8 and not y.is_float8


def test_products_that_xla_has_named_anew():
    """Certain of one that is left over, of the same size; not of two."""
    given = program(A, B, DOT.format("x")).products()
    [fate] = matching.fates(given, {"m": program(A, B, DOT.format("other"))})
    assert fate.is_float8 and fate.is_given
    result = "%r = (bf16[4,2]{1,0}, bf16[4,2]{1,0}) tuple(%u, %v)"
    two = program(A, B, DOT.format("u"), DOT.format("v"), result)
    fates = matching.fates(given, {"m": two})
    assert [fate.is_given for fate in fates] == [True, False, False]
    assert fates[0].kernels == {"m": ""}


CALLS = """
%body (p: (f32[4,4])) -> (f32[4,4]) {
  %p = (f32[4,4]{1,0}) parameter(0)
  %g = f32[4,4]{1,0} get-tuple-element(%p), index=0
  %m = f32[4,4]{1,0} dot(f32[4,4]{1,0} %g, f32[4,4]{1,0} %g), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="cell/MatMul"}
  ROOT %t = (f32[4,4]{1,0}) tuple(%m)
}

ENTRY %main (a: f8e4m3fn[4,16,16,8], k: f8e4m3fn[3,3,8,8]) -> f32[4,4] {
  %a = f8e4m3fn[4,16,16,8]{3,2,1,0} parameter(0)
  %k = f8e4m3fn[3,3,8,8]{3,2,1,0} parameter(1)
  %c = (bf16[4,16,16,8]{3,2,1,0}, /*index=1*/u8[0]{0}) custom-call(%a, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForwardGraph", custom_call_has_side_effect=true
  %i = (f32[4,4]{1,0}) parameter(2)
  %w = (f32[4,4]{1,0}) while(%i), condition=%body, body=%body
  ROOT %g1 = f32[4,4]{1,0} get-tuple-element(%w), index=0
}
"""  # noqa: E501


def test_loops_and_library_calls():
    products = hlo.Program(CALLS.replace("condition=%body, ", "")).products()
    assert [p.kernel for p in products] == ["cudnn", "xla"]
    assert [p.in_loop for p in products] == [False, True]
    assert [p.is_float8 for p in products] == [True, False]
    assert [p.result for p in products] == ["bf16", "f32"]


@pytest.mark.parametrize(
    ("text", "lhs", "rhs", "out", "size", "flops"),
    [
        # As many multiply-adds as pixels have neighbours: 46 x 46.
        (
            "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            *((2, 16, 16, 8), (3, 3, 8, 4), (2, 16, 16, 4)),
            *("512 x 72 x 4", 2 * 46 * 46 * 2 * 8 * 4),
        ),
        # The gradient of the input of one with strides: the same number.
        (
            "window={size=3x3 stride=2x2}, dim_labels=b01f_01io->b01f",
            *((2, 9, 9, 8), (3, 3, 8, 4), (2, 4, 4, 4)),
            *("32 x 72 x 4", 2 * 144 * 2 * 8 * 4),
        ),
        (
            "window={size=3x3 pad=2_2x2_2 lhs_dilate=2x2}, "
            "dim_labels=b01f_01oi->b01f",
            *((2, 4, 4, 4), (3, 3, 8, 4), (2, 9, 9, 8)),
            *("162 x 36 x 8", 2 * 144 * 2 * 8 * 4),
        ),
        # One channel a group.
        (
            "window={size=3x3}, dim_labels=b01f_01io->b01f, "
            "feature_group_count=16",
            *((4, 3, 3, 16), (3, 3, 1, 16), (4, 1, 1, 16)),
            *("16 of 4 x 9 x 1", 2 * 9 * 4 * 16),
        ),
        # With a batch, of a library call.
        (
            '"lhs_contracting_dimensions":["2"],"lhs_batch_dimensions":["0"]',
            *((5, 2, 3), (5, 3, 7), (5, 2, 7)),
            *("5 of 2 x 3 x 7", 2 * 5 * 2 * 3 * 7),
        ),
    ],
)
def test_sizes_and_flops(text, lhs, rhs, out, size, flops):
    assert arithmetic.measure(text, lhs, rhs, out) == (size, flops)


@pytest.mark.parametrize(
    ("name", "gradient_of", "scope", "product"),
    [
        ("net/dense/MatMul", "", "net/dense", "output"),
        (
            "gradient_tape/net/dense/MatMul/MatMul_1",
            "rhs",
            "net/dense",
            "kernel_grad",
        ),
        (
            "gradient_tape/net/dense/MatMul/MatMul",
            "lhs",
            "net/dense",
            "input_grad",
        ),
        (
            "gradient_tape/a/einsum/Einsum/Einsum_1",
            "",
            "a/einsum",
            "kernel_grad",
        ),
        (
            "gradient_tape/a/StatefulPartitionedCall_3/tfmp.input_grad/XlaCallModule",
            *("", "a", "input_grad"),
        ),
        ("gradient_tape/a/Mystery/Mystery", "", "a", ""),
        ("MatMul", "", "", "output"),
    ],
)
def test_names(name, gradient_of, scope, product):
    assert op_names.scope_of(name) == scope
    assert op_names.product_of(name, gradient_of) == product
    assert op_names.layer_of(name) is None
