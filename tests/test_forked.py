"""Forked processes are those of `python -c`, but for what is imported."""

import subprocess

import forked
import pytest

FRESH = """
import os, sys
print(sorted({"keras", "tensorflow", "tfmp", "pytest"} & set(sys.modules)))
print(sys.argv[1:], os.getcwd(), os.environ["MINE"], __name__)
import models
print("said", file=sys.stderr)
sys.exit(3)
"""


def test_a_program_has_what_it_is_given(tmp_path):
    (tmp_path / "models.py").write_text("print('not that of tests')")
    done = forked.run(FRESH, "a", "b", folder=tmp_path, MINE="1")
    assert done.stdout.splitlines() == [
        "['keras', 'tensorflow']",
        f"['a', 'b'] {tmp_path} 1 __main__",
        "not that of tests",
    ]
    assert (done.returncode, done.stderr) == (3, "said\n")


@pytest.mark.parametrize("name", ["models", "fashion_mnist", "nothing"])
def test_folders_of_pytest_are_not_its_own(name, tmp_path):
    done = forked.run(f"import {name}", folder=tmp_path)
    assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


def test_programs_run_beside_each_other_and_are_killed():
    ended, other = (forked.Program("input()") for _ in range(2))
    assert ended.wait().returncode == 1  # there is nothing to read
    assert "EOFError" in other.wait().stderr
    slow = forked.Program("import time; time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        slow.wait(0.5)
    assert slow.process.exitcode == -9
