"""The program whose products the README counts, as XLA is given it."""

from __future__ import annotations

import copy
import json
import pathlib
import re

import cpu_step
import export_convolutions
import export_step
import fault_libraries
import gpu_programs
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


KEPT = json.loads(gpu_programs.KEPT.read_text())


def test_programs_for_a_gpu_are_kept():
    """What CI holds them against: all in FP8 but kernels of convolutions."""
    assert sorted(KEPT) == sorted(gpu_programs.PROGRAMS)
    for name, report in KEPT.items():
        wide = {
            row["product"] for row in report["products"] if not row["float8"]
        }
        assert wide == ({"kernel_grad"} if name == "convolution" else set())
        assert report["fallbacks"] == 0 and len(report["kernels"]) == 2
        assert gpu_programs.losses(report, report) == []


def test_a_product_that_is_lost_is_told():
    found = copy.deepcopy(KEPT["dense"])
    found["products"][1] |= {"float8": False}
    found |= {"fallbacks": 1, "float8_share": 0.8}
    assert gpu_programs.losses(KEPT["dense"], found) == [
        "not in FP8: sequential/dense_1 output 512 x 2048 x 1024",
        "1 fall-backs",
        "FP8 has 80.00% of the FLOPs, and had 100.00%",
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
