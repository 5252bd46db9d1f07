"""The program whose products the README counts, as XLA is given it."""

from __future__ import annotations

import concurrent.futures
import copy
import functools
import json
import os
import pathlib
import re
import resource
import subprocess
import sys

import cpu_step
import export_convolutions
import export_step
import fault_libraries
import gpu_programs
import keras
import keras_faults
import measuring
import numpy as np
import operators
import pytest
import step_scaling

from tfmp._inspection import hlo

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


def test_static_scaling_has_the_fewest_kernels():
    for mode, count in KEPT["static_attention"]["kernels"].items():
        assert count < 2 / 3 * KEPT["attention"]["kernels"][mode]


def test_a_product_that_is_lost_is_told():
    found = copy.deepcopy(KEPT["dense"])
    found["products"][1] |= {"float8": False}
    found |= {"fallbacks": 1, "float8_share": 0.8}
    had = found["kernels"]["triton"]
    found["kernels"] |= {"triton": had + 1, "cublaslt": 1}
    assert gpu_programs.losses(KEPT["dense"], found) == [
        "not in FP8: sequential/dense_1 output 512 x 2048 x 1024",
        "1 fall-backs",
        "FP8 has 80.00% of the FLOPs, and had 100.00%",
        f"{had + 1} kernels with triton, and had {had}",
    ]


ROOT = pathlib.Path(__file__).resolve().parent.parent
FAULTS = list(range(1, 20))


def recorded_faults():
    """What `benchmarks/keras_faults.py` saw when it was last run."""
    path = ROOT / "benchmarks" / "results" / "keras_faults.json"
    return json.loads(path.read_text())


def test_every_fault_of_keras_is_listed_tested_and_measured():
    text = (ROOT / "docs" / "internals" / "keras.md").read_text()
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


def test_variants_are_timed_in_turns():
    calls = []
    times = measuring.interleaved(
        {name: functools.partial(calls.append, name) for name in "ab"},
        rounds=3,
        warm_up=1,
    )
    assert {name: found.shape for name, found in times.items()} == {
        "a": (3,),
        "b": (3,),
    }
    assert all(sorted(calls[i : i + 2]) == ["a", "b"] for i in range(0, 8, 2))
    assert len(calls) == 8 and calls != 4 * calls[:2]


def test_short_calls_are_repeated(monkeypatch):
    calls = []

    def millisecond(call, repeats):
        calls.append(repeats)
        return 0.001

    monkeypatch.setattr(measuring, "_seconds", millisecond)
    measuring.interleaved({"a": calls.clear}, 1, 1, block_seconds=0.01)
    assert calls == [1, 10]


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    times = {"a": np.array([1.0, 2.0, 9.0]), "b": np.array([1.0, 4.0, 3.0])}
    rows = measuring.summary(times, ["b", "c"])
    assert rows["a"]["milliseconds"]["median"] == 2.0
    assert rows["a"]["ratio_over"] == {
        "b": {"median": 1.0, "lower_quartile": 0.75, "upper_quartile": 2.0}
    }
    assert rows["b"]["ratio_over"] == {}
    rows["d"] = {"reason": "ValueError: no"}
    table = measuring.table({"x": rows}, [*"abd"], ["d", "a"], ["b"])
    assert table.splitlines() == [
        "milliseconds  a  b  d  ratio of  / b",
        "x             2  3  -  a         1.00",
    ]


def test_results_say_what_ran_them(tmp_path):
    path = tmp_path / "found.json"
    measuring.write(None, {})
    measuring.write(str(path), {"rounds": 2})
    found = json.loads(path.read_text())
    assert found["rounds"] == 2 and found["keras"] == keras.__version__
    assert found["cores"] == os.cpu_count() and found["cpu"]


def test_a_fresh_process_returns_raises_or_dies():
    assert measuring.in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal") as error:
        measuring.in_fresh_process(int, "x")
    first = measuring.first_words(error.value)
    assert first == "ValueError: invalid literal for int() with base 10: 'x'"
    with pytest.raises(concurrent.futures.process.BrokenProcessPool):
        measuring.in_fresh_process(os.abort)


STATM = pathlib.Path("/proc/self/statm")


@pytest.mark.skipif(not STATM.exists(), reason="asks Linux")
def test_peak_memory():
    before = measuring.peak_mebibytes()
    pages = int(STATM.read_text().split()[1])
    free = before - pages * resource.getpagesize() / 2**20
    used = np.ones([int(free) + 64, 2**17])
    assert used.all() and 32 < measuring.peak_mebibytes() - before < 128


CASES = {
    "dense": operators.dense(16, 32, 16),
    "scores": operators.scores(2, 16, 16),
    "conv": operators.convolution(1, 4, 3, 16, 16),
}


@pytest.mark.parametrize(
    ("case", "product"), [("scores", "all"), ("conv", "kernel_grad")]
)
def test_products_are_timed_alone(case, product):
    """XLA removes those that nobody asked for, and no round trip to FP8."""
    calls = operators.product_calls(CASES[case], product)
    assert ("tfmp delayed" in calls) == (case != "scores")
    for variant, call in calls.items():
        write = call.func.experimental_get_compiler_ir(*call.args)
        text = write(stage="optimized_hlo")
        count = len(hlo.Program(text).products())
        assert count == (3 if product == "all" else 1), variant
        assert ("f8e4m3fn[" in text) == (variant in operators.VARIANTS[:3])


def test_the_optimizers_work_grows_by_a_kernel_a_layer():
    two, six = (  # one alone has nothing to be joined with
        step_scaling.program_size(step_scaling.updates(count)["FP8 update"])
        for count in (2, 6)
    )
    assert 0 <= six["kernels"] - two["kernels"] <= 4
    assert two["kernels"] < two["instructions"] < six["instructions"]


# In a process of its own, as what it takes of memory is asked.
ALONE = """
import functools, json, training_steps, workloads
make = functools.partial(workloads.mlp, 8, 4, 0, 2)
workloads.WORKLOADS["tiny"] = workloads.Workload(make, (8,), 2, 4)
print(json.dumps(training_steps.alone("tiny", "tfmp delayed", False, 2)))
"""


@pytest.mark.slow
def test_a_training_step_alone():
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    run = subprocess.run(
        [sys.executable, "-c", ALONE],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["first_step_seconds"] >= found["trace_seconds"] > 0
    assert found["peak_mebibytes"] >= found["peak_before_mebibytes"] > 0
    assert len(found["step_milliseconds"]) == 2
    counts = {"parameters": 18, "layers_with_kernel": 1, "float8_layers": 1}
    assert found.items() >= counts.items()
