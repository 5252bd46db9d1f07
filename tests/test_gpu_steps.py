"""What is counted of the programs that `benchmarks/gpu_steps.py` compiles.

The programs are those of `test_inspection_hlo.py`; nothing is compiled here.
"""

from __future__ import annotations

import copy
import functools
import gzip
import json
import pathlib

import pytest

from benchmarks import gpu_steps, gpu_workloads, workloads
from tfmp._inspection import deviceless, hlo, jax_compiler, matching

DATA = pathlib.Path(__file__).parent / "data"
GOALS = json.loads(gpu_steps.KEPT.read_text())["programs"]
PRODUCT = 2 * 16**3  # FLOPs


def text(name):
    """Returns the text of a program that is kept."""
    with gzip.open(DATA / f"{name}.hlo.gz", "rt") as file:
        return file.read()


def counts(**programs):
    """Returns the counts of compiled programs, given as text, by mode."""
    given = hlo.Program(text("given")).products()
    compiled = {
        mode: deviceless.Compiled(program, 3 * 2**20, "0.10.2")
        for mode, program in programs.items()
    }
    return gpu_steps.counts(given, compiled)


def test_counts():
    """Two FP8 layers and one of bfloat16, eight products in all."""
    found = counts(triton=text("triton"), cublaslt=text("cublaslt"))
    for mode, kernels in (("triton", 25), ("cublaslt", 34)):
        assert found[mode] == {
            "products": 8,
            "float8_products": 5,
            "flops": 8 * PRODUCT,
            "float8_flops": 5 * PRODUCT,
            "eligible_flops": 5 * PRODUCT,
            "kernels": kernels,
            "temporary_mib": 3.0,
            "jax": "0.10.2",
        }


def test_a_product_that_is_lost_stays_eligible():
    """As if the compiler had widened both factors of one product."""
    program = text("cublaslt")
    found = hlo.Program(program).products()
    name = next(product.name for product in found if product.is_float8)
    [line] = [
        line
        for line in program.splitlines()
        if f'op_name="{name}"' in line and "custom-call(" in line
    ]
    factors = hlo.OPERAND.findall(line.partition("custom-call(")[2])[:2]
    for factor in factors:
        for kind in ("f8e4m3fn", "f8e5m2"):
            program = program.replace(
                f"%{factor} = {kind}", f"%{factor} = bf16"
            )
    lost = counts(cublaslt=program)["cublaslt"]
    assert lost["eligible_flops"] == 5 * PRODUCT > lost["float8_flops"]
    rows = {"mixed_bfloat16": {"cublaslt": lost}}
    rows["tfmp delayed"] = rows["mixed_bfloat16"]
    [problem] = gpu_steps.shortfalls("mlp", rows, 1)
    assert problem.startswith("mlp, tfmp delayed, cublaslt: ")


def test_ratios():
    row = counts(triton=text("triton"))
    base = copy.deepcopy(row)
    base["triton"] |= {"float8_products": 0, "float8_flops": 0}
    base["triton"] |= {"kernels": 15, "temporary_mib": 4.0}
    rows = {"mixed_bfloat16": base, "tfmp delayed": row}
    found = gpu_steps.ratios(rows, "tfmp delayed", layers=5)["triton"]
    assert found == {
        "float8_share": 5 / 8,
        "eligible_share": 1.0,
        "kernels_a_layer": 5.0,
        "kernels_above": 2.0,
        "memory": 0.75,
    }
    assert gpu_steps.shortfalls("layer", rows, 5) == []
    row["triton"] |= {"kernels": 31, "temporary_mib": 3.3}
    assert gpu_steps.shortfalls("layer", rows, 5) == [
        "layer, tfmp delayed, triton: 3.20 kernels above a product",
        "layer, tfmp delayed, triton: 0.82 of the memory",
    ]
    assert gpu_steps.shortfalls("mlp", rows, 5) == []


def test_what_is_kept():
    """Every program, with all that is eligible in FP8 in both modes.

    And the layer that others have measured, within kernels and memory.
    """
    assert list(GOALS) == list(gpu_workloads.PROGRAMS)
    for name, program in GOALS.items():
        rows = program["precisions"]
        attends = gpu_workloads.PROGRAMS[name].attends
        assert set(gpu_steps.PRECISIONS) - set(rows) == (
            set() if attends else {gpu_steps.ATTENTION}
        )
        own = {
            p: r
            for p, r in rows.items()
            if p in ("mixed_bfloat16", "tfmp delayed")
        }
        assert gpu_steps.shortfalls(name, own, program["layers"]) == []
        for mode in jax_compiler.MODES:
            assert rows["mixed_bfloat16"][mode]["float8_products"] == 0


def test_table():
    lines = gpu_steps.table(GOALS, ["layer"]).splitlines()
    cells = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert len(cells) == 1 + len(gpu_steps.PRECISIONS)
    assert {len(row) for row in cells} == {9}
    bfloat16, delayed = cells[1], cells[2]
    assert bfloat16[0] == "| mixed_bfloat16" and bfloat16[6] == "- / -"
    assert delayed[1] == "18 / 18 of 24" and delayed[3] == "100% / 100%"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "low"),
    [("mixed_bfloat16", 0), ("tfmp delayed", 18), ("tfmp attention", 24)],
)
def test_a_step_as_xla_is_given_it(precision, low):
    """The causal layer, smaller."""
    make = functools.partial(gpu_workloads.layer, 32, 16, 2, True)
    small = gpu_workloads.Program(
        "", workloads.Workload(make, (16, 32), 0, 2), 1, labels=False
    )
    traced = gpu_steps.step(small, precision)
    products = hlo.Program(traced.for_accelerators("hlo")).products()
    assert len(products) == 24
    assert sum(product.is_float8 for product in products) == low
    assert matching.fates(products, {})[0].is_given
