"""Which tests cover a module, and what they are to see there."""

import covering
import mutations


def test_the_nearest_come_first():
    imports = {
        "tfmp/a.py": set(),
        "tfmp/b.py": {"tfmp/a.py"},
        "tests/test_a.py": {"tfmp/a.py"},
        "tests/test_b.py": {"tfmp/b.py"},
        "tests/test_c.py": set(),
    }
    found = covering.covering({"tfmp/a.py"}, imports, 3)
    assert found == [["tests/test_a.py"], ["tests/test_b.py"], []]
    assert covering.covering({"tfmp/a.py"}, imports, 1) == found[:1]


def test_each_planted_fault_changes_one_line():
    for fault in mutations.FAULTS:
        text = (covering.ROOT / "tfmp" / f"{fault.file}.py").read_text()
        assert text.count(fault.line) == 1, fault


def test_the_tree_has_its_imports():
    imports = covering.graph(covering.ROOT)
    assert "tfmp/_core/scaling.py" in imports["tests/test_scaling.py"]
    assert "tfmp/_core/scaling.py" in imports["tfmp/_core/float8_passes.py"]
    named = imports["tests/test_precision_map.py"]  # which imports `tfmp` alone
    assert "tfmp/policies/precision_map.py" in named
    assert not any(covering.WHOLE in theirs for theirs in imports.values())
    assert imports["tests/test_covering.py"] == {
        "tests/covering.py",
        "tests/mutations.py",
    }
