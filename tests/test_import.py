"""`import tfmp` costs little and changes nothing.

Speed itself is not asserted: `benchmarks/import_time.py` measures it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import forked
import pytest

# Imports a module where TensorFlow and Keras are there already, and prints
# what is different afterwards.
PROBE = """
import contextlib, io, json, logging, os, random, sys, warnings
import keras, numpy, tensorflow as tf
from absl import logging as absl_logging

seeds, warned = [], []
for owner, name in ((tf.random, "set_seed"), (keras.utils, "set_random_seed")):
    setattr(owner, name, lambda seed, name=name: seeds.append(name))

def state():
    loggers = ("", "absl", "tensorflow", "tfmp")
    return {
        "environment": dict(os.environ),
        "path": list(sys.path),
        "logging": [logging.getLogger(name).level for name in loggers]
        + [absl_logging.get_verbosity(), tf.get_logger().level],
        "policy": keras.config.dtype_policy().name,
        "keras": [keras.config.floatx(), keras.config.epsilon(),
                  keras.config.image_data_format()],
        "tensorflow": [tf.config.functions_run_eagerly(),
                       str(tf.config.optimizer.get_jit()),
                       tf.config.optimizer.get_experimental_options(),
                       tf.config.get_soft_device_placement()],
        "methods": sorted(
            (kind.__name__, name, id(value))
            for kind in {*keras.Model.__mro__, *keras.optimizers.SGD.__mro__,
                         keras.optimizers.LossScaleOptimizer,
                         keras.DTypePolicy, keras.Variable}
            for name, value in vars(kind).items() if callable(value)),
        "random": [repr(random.getstate()), repr(numpy.random.get_state())],
        "filters": repr(warnings.filters),
        "seeds": list(seeds),
        "warnings": [str(each.message) for each in warned],
    }

before, modules, printed = state(), set(sys.modules), io.StringIO()
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    with contextlib.redirect_stdout(printed):
        __import__(sys.argv[1])
after = state()
changed = sorted(key for key in before if before[key] != after[key])
new = {name.split(".")[0] for name in set(sys.modules) - modules}
cpu = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration()] * 2
try:
    tf.config.set_logical_device_configuration(cpu, halves)
    devices = len(tf.config.list_logical_devices("CPU"))
except RuntimeError:
    devices = 0
print(json.dumps({
    "changed": changed,
    "printed": printed.getvalue(),
    "modules": sorted(new - set(sys.stdlib_module_names)),
    "devices": devices,
}))
"""

# Every one of the sins at once.
BAD = """
import logging, os, random, sys, warnings
import keras, numpy, tensorflow as tf
import heavy

os.environ["TFMP_WAS_HERE"] = "1"
sys.path.append("elsewhere")
logging.getLogger("tensorflow").setLevel(logging.CRITICAL)
keras.config.set_dtype_policy("mixed_bfloat16")
keras.config.set_epsilon(1e-3)
tf.config.run_functions_eagerly(True)
random.seed(0)
tf.random.set_seed(0)
warnings.warn("careful")
tf.constant(1.0)
print("hello")
"""


def probe(module: str, *path: pathlib.Path) -> dict[str, Any]:
    """Imports a module in a new process; returns what that changed there."""
    before = os.environ.get("PYTHONPATH", "")
    folders = os.pathsep.join(filter(None, [*map(str, path), before]))
    run = subprocess.run(
        [sys.executable, "-c", PROBE, module],
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    root = pathlib.Path(__file__).resolve().parent.parent
    return probe("tfmp", root)


def test_import_changes_no_global_setting(facts):
    assert facts["changed"] == []


def test_import_is_silent(facts):
    assert facts["printed"] == ""


def test_import_loads_nothing_else(facts):
    assert facts["modules"] == ["tfmp"]


def test_import_leaves_devices_to_be_configured(facts):
    assert facts["devices"] == 2


@pytest.mark.slow
def test_probe_can_fail(tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "heavy.py").write_text("")
    found = probe("bad", tmp_path)
    assert found.pop("changed") == [
        "environment",
        "keras",
        "logging",
        "path",
        "policy",
        "random",
        "seeds",
        "tensorflow",
        "warnings",
    ]
    assert found == {
        "printed": "hello\n",
        "modules": ["bad", "heavy"],
        "devices": 0,
    }


USED = """
import sys, keras, tfmp
methods = "compile", "compute_metrics", "make_train_function"
before = [getattr(keras.Model, name) for name in methods]
made = {"policy": lambda: tfmp.Policy("mixed_float16"),
        "layer": lambda: tfmp.layers.Dense(1, dtype="mixed_bfloat16"),
        "optimizer": lambda: tfmp.optimizers.LossScaleOptimizer("sgd")}
made[sys.argv[1]]()
after = [getattr(keras.Model, name) for name in methods]
print(all(a is not b for a, b in zip(before, after)))
tfmp.Policy("mixed_float8")
print(after == [getattr(keras.Model, name) for name in methods])
"""


@pytest.mark.parametrize("what", ["policy", "layer", "optimizer"])
def test_keras_is_changed_once_when_it_is_first_used(what):
    ended = forked.Program(USED, what).wait()
    assert ended.stdout.split() == ["True", "True"], ended.stderr
