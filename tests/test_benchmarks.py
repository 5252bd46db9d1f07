"""The program whose products the README counts, as XLA is given it."""

from __future__ import annotations

import json
import pathlib
import re

import compile_for_gpu
import cpu_step
import export_convolutions
import export_step
import fault_libraries
import keras
import keras_faults
import pytest

E4M3, E5M2 = "f8E4M3FN", "f8E5M2"
DOT = re.compile(
    r"stablehlo\.dot.* : \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>"
)


@pytest.mark.parametrize(
    "variant", [name for name in cpu_step.VARIANTS if "8" in name]
)
def test_exported_products(variant):
    """Six: nothing has removed the gradient of the model's inputs yet."""
    products = re.findall(DOT, export_step.export(variant))
    if variant.startswith("tfmp"):
        pairs = [(E4M3, E4M3), (E5M2, E4M3), (E4M3, E5M2)]
        assert sorted(products) == sorted(2 * pairs)
    else:
        assert products and E4M3 not in str(products)


CONVOLUTION = re.compile(
    r"stablehlo\.convolution.* : \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>"
)


@pytest.mark.parametrize("name", ["3x3", "strided", "depthwise"])
def test_exported_convolutions(name):
    """What runs in FP8 is what the geometry says, less `kernel_grad`."""
    found = CONVOLUTION.findall(export_convolutions.export(name))
    reasons = export_convolutions.reasons(name)
    float8 = [p for p in ("output", "input_grad") if reasons[p] is None]
    expected = [(E4M3, E4M3)] * len(float8)
    expected += [("bf16", "bf16")] * (3 - len(float8))
    assert sorted(found) == sorted(expected)


PROGRAM = """
%fused (param_0.1: f8e4m3fn[4,8], param_1.1: bf16[8,2]) -> bf16[4,2] {
  %param_0.1 = f8e4m3fn[4,8]{1,0} parameter(0)
  %param_1.1 = bf16[8,2]{1,0} parameter(1)
  ROOT %dot.1 = bf16[4,2]{1,0} dot(%param_0.1, %param_1.1), lhs_contracting={1}
}

ENTRY %main (a: f8e4m3fn[4,8], b: f8e5m2[8,2]) -> bf16[4,2] {
  %a = f8e4m3fn[4,8]{1,0} parameter(0)
  %b = f8e5m2[8,2]{1,0} parameter(1)
  %c = (bf16[4,2]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul$f8"
  %e = (bf16[4,2]{1,0}, u8[64]{0}) custom-call(%b, %b, %c), window={size=1x1}, custom_call_target="__cudnn$convForwardGraph"
  ROOT %d = bf16[4,2]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused
}
"""  # noqa: E501


def test_products_of_a_compiled_program():
    assert compile_for_gpu.product_operands(PROGRAM) == [
        ("f8e4m3fn", "bf16"),
        ("f8e4m3fn", "f8e5m2"),
        ("f8e5m2", "f8e5m2"),
    ]


ROOT = pathlib.Path(__file__).resolve().parent.parent
FAULTS = list(range(1, 20))


def recorded_faults():
    """What `benchmarks/keras_faults.py` saw when it was last run."""
    path = ROOT / "benchmarks" / "results" / "keras_faults.json"
    return json.loads(path.read_text())


def test_every_fault_of_keras_is_listed_tested_and_measured():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    [_, text] = text.split("## Keras' float8, fault by fault")
    listed = text.split("\n## ")[0]
    tests = (ROOT / "tests" / "test_keras_faults.py").read_text()
    rows = recorded_faults()["faults"]
    for found in (
        re.findall(r"^\| (\d+) \|", listed, re.M),
        set(re.findall(r"^def test_fault_(\d+)_", tests, re.M)),
        keras_faults.PROGRAMS,
        rows,
    ):
        assert sorted(map(int, found)) == FAULTS
    for program in keras_faults.PROGRAMS.values():
        assert program.__doc__ and program.__doc__.count("\n") == 0
    assert all(row["tfmp"]["ok"] for row in rows.values())


def test_faults_of_keras_are_measured():
    """Those that take no time, and as they were recorded."""
    numbers = [7, 15, 16]
    rows = keras_faults.measure(numbers)
    assert all(rows[str(n)]["tfmp"]["ok"] for n in numbers)
    recorded = recorded_faults()
    if recorded["keras"] == keras.__version__:
        assert rows == {str(n): recorded["faults"][str(n)] for n in numbers}
    lines = keras_faults.table(rows).splitlines()
    assert [line[:4] for line in lines[2:]] == ["| 7 ", "| 15", "| 16"]
    assert all(line.count("|") == 5 and "ok: " in line for line in lines[2:])


def test_a_program_that_raises_has_failed():
    def program(library):
        raise ValueError("too many  values to unpack " + 99 * "x")

    row = keras_faults.attempt(program, fault_libraries.Tfmp())
    seen = "ValueError: too many values to unpack..."
    assert row == {"ok": False, "seen": seen}
