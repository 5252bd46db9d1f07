"""`python -m examples.workers`: what starts, ends and compares the workers."""

from __future__ import annotations

import json
import sys

import forked
import pytest
from absl import app, flags
from absl.testing import flagsaver
from test_examples import write_made_up_films

from examples import workers as program
from examples.harness import cluster

HELD = {"weights": "a", "float8": "b", "optimizer": "c", "history": [1.0]}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_each_worker_has_its_place():
    found = [json.loads(config) for config in cluster.configs(3)]
    assert [each["task"]["index"] for each in found] == [0, 1, 2]
    [places] = {tuple(each["cluster"]["worker"]) for each in found}
    assert len(set(places)) == 3


def test_all_are_started_again_if_one_is_killed(tmp_path):
    """The last one kills itself the first time; the other then fails."""
    code = f"""
import json, os, pathlib
done = pathlib.Path({str(tmp_path / "killed")!r})
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
pathlib.Path({str(tmp_path)!r}, f"{{index}}-{{os.getpid()}}").touch()
if index and not done.exists():
    done.touch()
    os.kill(os.getpid(), 9)
"""
    assert cluster.run(python(code), 2, restarts=1) == 1
    assert len(list(tmp_path.glob("0-*"))) == 2
    assert len(list(tmp_path.glob("1-*"))) == 2


@pytest.mark.parametrize("code", ["import os; os.kill(os.getpid(), 9)", "a"])
def test_what_fails_is_not_started_for_ever(code):
    with pytest.raises(RuntimeError, match="workers failed"):
        cluster.run(python(code), 1, restarts=1)


def test_one_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    code = """
import json, os, time
if not json.loads(os.environ["TF_CONFIG"])["task"]["index"]:
    time.sleep(60)
os.kill(os.getpid(), 9)
"""
    assert cluster.once(python(code), 2) == [-9, -9]


def test_what_differs_is_said(capsys):
    assert program.compare("two", [HELD, HELD])
    assert "equal, bit for bit" in capsys.readouterr().out
    assert program.compare("two", [HELD, {**HELD, "history": [2.0]}])
    assert "differ in history" in capsys.readouterr().out
    assert not program.compare("two", [HELD, {**HELD, "float8": "d"}])
    assert "differ in float8" in capsys.readouterr().out


@pytest.fixture
def parse():
    """Returns a function that sets the flags, until the test ends."""
    before = set(flags.FLAGS)
    program.define_own_flags()
    with flagsaver.flagsaver():
        yield lambda *given: flags.FLAGS(["workers", *given])
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["none"], "One example, please"),
        (["reinforcement"], "does not train by `model.fit`"),
        (["images", "--policies=float32,mixed_float8"], "One policy, please"),
        (["images", "--kill_at=1000000"], "`kill_at` must be less than"),
    ],
)
def test_what_cannot_be_trained_is_told(given, message, parse):
    name, *options = given
    parse("--smoke", *options)
    with pytest.raises(app.UsageError, match=message):
        program.main(["workers", name])


@pytest.mark.slow
def test_a_worker_is_killed_and_all_go_on(tmp_path):
    """They end with what they would have had, bit for bit."""
    write_made_up_films(tmp_path / "recbole-1.2.1-py3-none-any.whl")
    command = ["recommender", "--smoke", "--epochs=2", "--batch_size=16"]
    paths = [f"--data_dir={tmp_path}", f"--output={tmp_path / 'logs'}"]
    started = forked.Program(
        "from absl import app; from examples import workers;"
        "workers.define_own_flags(); app.run(workers.main)",
        *[*command, "--kill_at=7", *paths],
    )
    done = started.wait(900)  # six processes that import TensorFlow
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    assert "workers ended with [" in done.stdout
    assert "went on from step 5" in done.stdout
    both = "with a worker killed, and without: weights, FP8 scales, optimizer"
    assert both in done.stdout
    assert done.stdout.count("equal, bit for bit") == 2
