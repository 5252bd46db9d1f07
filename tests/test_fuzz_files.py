"""Files that are not what they should be: `fuzz_files.py` with few tries."""

from __future__ import annotations

import random

import fuzz_files
import pytest

import tfmp
from tfmp._support import plain_values


@pytest.mark.slow
def test_odd_files_are_read_or_rejected_in_a_few_lines():
    for name, counts in fuzz_files.run(tries=180, seed=0).items():
        assert set(counts) <= {"read", "rejected"}, (name, counts)
        assert len(counts) == 2 or name == "run.json", (name, counts)


def test_a_finding_is_seen(tmp_path):
    def fails(path):
        raise KeyError("x")

    def says_little(path):
        raise ValueError("no")

    for read, said in ((fails, "KeyError"), (says_little, "names no file")):
        kind = fuzz_files.Kind("a.json", b"{}", read)
        outcome = fuzz_files.attempt(kind, tmp_path, random.Random(0))
        assert outcome.startswith(said)


def test_aliases_that_stand_for_a_billion_values(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(fuzz_files.ALIASES)
    with pytest.raises(ValueError, match="100000 values at most") as error:
        tfmp.PrecisionMap.load(path)
    assert len(str(error.value)) < 500


def test_an_alias_or_two_are_no_fault(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(
        "default: mixed_float8\npolicies:\n  a: &x {name: mixed_float8, "
        "recipe: current}\n  b: *x\n"
    )
    found = tfmp.PrecisionMap.load(path)
    assert found["a"] == found["b"] == tfmp.Policy("mixed_float8", "current")


@pytest.mark.parametrize(
    "read", [plain_values.from_json, plain_values.from_yaml]
)
def test_deep_nesting(read):
    with pytest.raises(ValueError, match="nested 50 deep at most"):
        read("[" * 3000 + "]" * 3000)
    assert read("[" * 40 + "]" * 40)
