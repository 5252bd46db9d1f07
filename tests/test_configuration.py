"""`configure`: what is set, what is said, what is refused."""

import pathlib
import subprocess
import sys

import keras
import pytest

from tfmp import policies, recipes
from tfmp._configuration import configuration
from tfmp._configuration.configuration import configure
from tfmp.hardware import Decision, Device, Hardware, decide

H100 = Hardware((Device("cpu", "x86_64"), Device("gpu", "H100", (9, 0))))
A100 = Hardware((Device("gpu", "A100", (8, 0)),))
T4 = Hardware((Device("gpu", "T4", (7, 5)),))
TPU = Hardware((Device("tpu"),))
METAL = Hardware((Device("gpu", "METAL"),))
MIXED = Hardware((Device("gpu", "T4", (7, 5)), Device("gpu", "A100", (8, 0))))
OLD_CPU = Hardware((Device("cpu", "x86_64"),))
NEW_CPU = Hardware((Device("cpu", "x86_64"),), ("avx512_bf16",))
NONE = Hardware()
B200 = Hardware((Device("gpu", "B200", (10, 0)),), cuda=(12, 5))
MACHINES = (B200, H100, A100, T4, TPU, METAL, MIXED, OLD_CPU, NEW_CPU, NONE)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_auto_sets_what_decide_chooses(machine):
    found = configure(hardware=machine)
    decision = decide(machine)
    assert policies.global_policy() == found.policy
    assert keras.config.dtype_policy().name == decision.policy
    assert (found.hardware, found.requested) == (machine, "auto")
    assert (found.reason, found.notes) == (decision.reason, decision.warnings)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("name", policies.NAMES)
def test_an_explicit_name_is_obeyed_on_every_machine(name, machine):
    found = configure(name, hardware=machine)
    assert policies.global_policy() == policies.Policy(name) == found.policy
    assert found.requested == name
    assert found.reason.startswith("asked for")
    assert decide(machine).policy in found.reason


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_the_policy_of_auto_asked_by_name_is_never_called_slow(machine):
    name = configure(hardware=machine).policy.name
    assert "speed" not in " ".join(configure(name, hardware=machine).notes)


def test_fp8_asked_for_where_nothing_compiles_it():
    notes = " ".join(configure("mixed_float8", hardware=B200).notes)
    assert "cannot run" in notes and "CUDA 12.8 or later" in notes
    assert "CUDA" not in " ".join(
        configure("mixed_float8", hardware=A100).notes
    )


def test_a_policy_object_is_set_as_it_is():
    policy = policies.Policy("mixed_float8", "current")
    assert configure(policy, hardware=OLD_CPU).policy is policy
    assert policies.global_policy() is policy
    stock = keras.DTypePolicy("mixed_bfloat16")
    assert configure(stock, hardware=OLD_CPU).policy is stock
    assert keras.config.dtype_policy() is stock


@pytest.mark.parametrize("policy", ["auto", "mixed_float8"])
@pytest.mark.parametrize("recipe", ["current", recipes.CurrentScaling()])
def test_a_recipe_reaches_mixed_float8(policy, recipe):
    found = configure(policy, recipe, hardware=H100)
    assert found.policy.recipe == recipes.CurrentScaling()
    assert found.notes == ()
    assert "mixed_float8 with CurrentScaling()" in str(found)


def test_auto_leaves_a_recipe_out_where_it_finds_no_float8():
    found = configure(recipe="current", hardware=A100)
    assert found.policy == policies.Policy("mixed_bfloat16")
    (note,) = found.notes
    assert "CurrentScaling() is not used" in note


@pytest.mark.parametrize(
    ("policy", "machine", "said"),
    [
        ("mixed_float8", OLD_CPU, "CPU x86_64 has no fast float8: its numb"),
        ("mixed_float8", A100, "has no fast float8"),
        ("mixed_float8", TPU, "FP8 products are untested on TPU"),
        ("mixed_float8", METAL, "FP8 products are untested on GPU METAL"),
        ("mixed_float8", NONE, "this machine has no fast float8"),
        ("mixed_bfloat16", T4, "has no fast bfloat16"),
        ("mixed_bfloat16", OLD_CPU, "has no fast bfloat16"),
        ("mixed_float16", TPU, "has no fast float16"),
        ("mixed_float16", T4, "LossScaleOptimizer"),
        ("mixed_float16", A100, "bfloat16 is fast here"),
        ("float16", T4, "mixed_float16 keeps them in float32"),
        ("bfloat16", A100, "mixed_bfloat16 keeps them in float32"),
    ],
)
def test_notes(policy, machine, said):
    notes = configure(policy, hardware=machine).notes
    assert any(said in note for note in notes), notes


@pytest.mark.parametrize(
    ("policy", "machine"),
    [
        ("mixed_float8", H100),
        ("mixed_bfloat16", H100),
        ("mixed_bfloat16", NEW_CPU),
        ("mixed_bfloat16", METAL),
        ("float32", A100),
    ],
)
def test_no_notes_where_there_is_nothing_to_say(policy, machine):
    assert configure(policy, hardware=machine).notes == ()


def test_the_machine_is_looked_at_by_default(monkeypatch):
    monkeypatch.setattr(configuration, "detect", lambda: T4)
    assert configure().hardware is T4
    assert keras.config.dtype_policy().name == "mixed_float16"


@pytest.mark.slow
def test_tensorflow_can_still_be_set_up_afterwards():
    # TensorFlow refuses this once its devices are started.
    code = """
import tensorflow as tf
from tfmp._configuration import configuration
configuration.configure()
cpu = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, halves)
print(len(tf.config.list_logical_devices("CPU")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(configuration.__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "2", done.stderr


def test_the_text_has_found_chose_why_and_notes_in_80_columns():
    found = configure(recipe="current", hardware=MIXED)
    lines = str(found).splitlines()
    titles = [line[:7].strip() for line in lines if line[:7].strip()]
    assert titles == ["found:", "chose:", "why:", "note:", "note:"]
    assert max(map(len, lines)) <= 80
    assert repr(found) == str(found)


def test_every_word_of_a_decision_is_in_the_text():
    decision = decide(MIXED)
    text = " ".join(str(configure(hardware=MIXED)).split())
    assert decision.reason in text
    assert all(warning in text for warning in decision.warnings)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"policy": "float8"}, ValueError, "`policy` must be one of"),
        ({"policy": "Auto"}, ValueError, "'auto', 'float32'"),
        ({"policy": None}, TypeError, "`policy` must be a string"),
        ({"policy": 8}, TypeError, "`policy` must be a string"),
        ({"recipe": "slow"}, ValueError, "`recipe` must be one of"),
        ({"recipe": 3}, TypeError, "`recipe` must be a tfmp.recipes"),
        (
            {"policy": "mixed_bfloat16", "recipe": "current"},
            ValueError,
            "`recipe` must be None",
        ),
        (
            {"policy": policies.Policy("mixed_float8"), "recipe": "current"},
            ValueError,
            "`recipe` must be None when `policy` is a dtype policy",
        ),
        ({"hardware": "H100"}, TypeError, "`hardware` must be"),
        (
            {"policy": "mixed_float8", "hardware": "H100"},
            TypeError,
            "`hardware` must be",
        ),
    ],
)
def test_a_refused_call_leaves_the_global_policy(arguments, error, said):
    before = policies.Policy("mixed_float16")
    policies.set_global_policy(before)
    with pytest.raises(error, match="Received: ") as caught:
        configure(**{"hardware": H100, **arguments})
    assert said in str(caught.value)
    assert keras.config.dtype_policy() is before


def test_a_failure_on_the_way_leaves_the_global_policy(monkeypatch):
    monkeypatch.setattr(
        configuration, "decide", lambda _: Decision("float9", "broken")
    )
    before = policies.global_policy()
    with pytest.raises(ValueError, match="float9"):
        configure(hardware=H100)
    assert policies.global_policy() is before


def test_a_layer_built_afterwards_has_the_policy():
    configure(hardware=A100)
    layer = keras.layers.Dense(2)
    assert (layer.compute_dtype, layer.variable_dtype) == (
        "bfloat16",
        "float32",
    )
