"""Configs of files that were written when each part of a pair was a field."""

import json
import re

import keras
import pytest

import tfmp
from tfmp.optimizers import LossScaleOptimizer
from tfmp.recipes import CurrentScaling, DelayedScaling, Emulated

DELAYED = """{"class_name": "DelayedScaling", "config": {"margin": 1,
"fp8_format": "HYBRID", "inputs": "E4M3", "kernel": "E5M2", "grads": "E4M3",
"high_precision": ["kernel_grad"], "attention": true,
"high_precision_projections": [], "current": [], "amax_history_len": 32,
"amax_compute_algo": "max"}}"""
CURRENT = """{"class_name": "CurrentScaling", "config": {"margin": 0,
"fp8_format": "HYBRID", "inputs": "E4M3", "kernel": "E4M3", "grads": "E5M2",
"high_precision": [], "attention": false, "high_precision_projections": []}}"""
BLOCKS = """{"class_name": "Emulated", "config": {"forward": "MXFP4",
"backward": "MXFP8_E5M2", "inputs": "MXFP4", "kernel": "MXFP6_E3M2", "grads":
"MXFP8_E5M2", "rounding": "nearest", "backward_rounding": "stochastic",
"high_precision": [], "attention": false, "high_precision_projections": [],
"seed": 3}}"""
PARTS = """{"class_name": "Emulated", "config": {"forward": "E4M3", "inputs":
"BFLOAT16", "kernel": null, "grads": null, "backward": "E5M2"}}"""
OPTIMIZER = """{"module": "tfmp.optimizers.loss_scale", "class_name":
"LossScaleOptimizer", "config": {"name": "scaled", "inner_optimizer":
{"module": "keras.optimizers", "class_name": "SGD", "config": {"learning_rate":
0.5}, "registered_name": null}, "initial_scale": 1024.0, "growth_steps": 7,
"growth_factor": 4.0, "backoff_factor": 0.25, "min_scale": 2.0, "max_scale":
65536.0, "hysteresis": 2, "dynamic": true}, "registered_name":
"tfmp>LossScaleOptimizer"}"""

RECIPES = {
    DELAYED: DelayedScaling(
        margin=1,
        fp8_format=("E4M3", "E5M2", "E4M3"),
        high_precision=("kernel_grad",),
        attention=True,
        amax_history_len=32,
    ),
    CURRENT: CurrentScaling(),
    BLOCKS: Emulated(
        ("MXFP4", "MXFP6_E3M2"),
        "MXFP8_E5M2",
        backward_rounding="stochastic",
        seed=3,
    ),
    PARTS: Emulated(("BFLOAT16", "E4M3"), "E5M2"),
}


@pytest.mark.parametrize("text", RECIPES, ids=lambda text: text[15:30])
def test_a_recipe_loads(text):
    assert tfmp.recipes.get(json.loads(text)) == RECIPES[text]


@pytest.mark.parametrize("text", RECIPES, ids=lambda text: text[15:30])
def test_a_policy_loads_alone_and_in_a_map(text, tmp_path):
    plain = {"name": "mixed_float8", "recipe": json.loads(text)}
    config = {
        "module": "tfmp.policies.policy",
        "class_name": "Policy",
        "config": plain,
        "registered_name": "tfmp>Policy",
    }
    expected = tfmp.Policy("mixed_float8", RECIPES[text])
    layer = keras.layers.Dense.from_config({"units": 1, "dtype": config})
    assert layer.dtype_policy == expected
    path = tmp_path / "map.json"
    path.write_text(
        json.dumps({"default": "float32", "policies": {"a": plain}})
    )
    assert tfmp.PrecisionMap.load(path)["a"] == expected


def test_an_optimizer_loads():
    found = keras.optimizers.deserialize(json.loads(OPTIMIZER))
    inner = keras.optimizers.SGD(0.5, name=found.inner_optimizer.name)
    expected = LossScaleOptimizer(
        inner, 1024.0, 7, (4.0, 0.25), (2.0, 2.0**16), hysteresis=2
    )
    assert found.get_config() == {**expected.get_config(), "name": "scaled"}


def test_what_an_old_config_leaves_out_has_its_default():
    optimizer = LossScaleOptimizer.from_config(
        {"inner_optimizer": "sgd", "backoff_factor": 0.25, "min_scale": 2.0}
    )
    config = optimizer.get_config()
    assert config["factors"] == [2.0, 0.25]
    assert config["bounds"] == [2.0, 2.0**24]
    recipe = CurrentScaling.from_config({"grads": "E4M3"})
    assert recipe == CurrentScaling(fp8_format="E4M3")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda **each: LossScaleOptimizer("sgd", **each), "min_scale"),
        (CurrentScaling, "grads"),
        (lambda **each: Emulated("MXFP4", **each), "kernel"),
    ],
)
def test_constructors_do_not_take_the_old_names(make, name):
    with pytest.raises((TypeError, ValueError), match=name):
        make(**{name: "E4M3"})


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (CurrentScaling, {"grads": "E3M4"}, "fp8_format[2]"),
        (CurrentScaling, {"grads": "E4M3", "fp8_format": "E3"}, "fp8_format"),
        (Emulated, {"forward": "MXFP4", "kernel": "none"}, "forward[1]"),
        (Emulated, {"kernel": "MXFP4"}, "forward"),
    ],
)
def test_errors_name_the_field(kind, config, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        kind.from_config(config)
