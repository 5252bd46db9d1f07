"""Every layer of Keras trains in 16 bits where it trains in float32.

The whole table, of all policies and ways, is that of
`tests/layer_table.py`; here each layer takes some of it in turn.
"""

from __future__ import annotations

import json
import zlib

import keras
import pytest
from every_layer import EXCLUDED, OF_PHOTOS, inputs_of, make, train
from keras import layers
from layer_table import NAMES, NARROW, RESULT, WAYS, run

import tfmp
from tfmp.conversion import DEFAULTS
from tfmp.conversion.defaults import default_of


def turn(name: str) -> int:
    """Returns a number that is the same in every run."""
    return zlib.crc32(name.encode())


def check(name: str, policy: str, way: str, jit_compile: bool) -> None:
    """Fails unless a layer trains, or does not in float32 either."""
    wrong = run(name, policy, way, jit_compile)
    if wrong:
        assert run(name, "float32", way, jit_compile), wrong


@pytest.mark.slow_but("[Dense]", "[LSTM]", "[Conv2D]", "[MultiHeadAttention]")
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_trains_under_xla_as_in_float32(name):
    number = turn(name)
    check(name, NARROW[number % 3], WAYS[number // 3 % 3], jit_compile=True)


@pytest.mark.slow_but(
    "[GRU]",
    "[Conv",
    "[Sep",
    "[Dense",
    "Normalization]",
    "Attention]",
    "[Ein",
    "[Emb",
    "[Bidi",
)
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_trains_in_a_graph(name):
    check(name, "mixed_float16", WAYS[turn(name) % 3], jit_compile=False)


@pytest.mark.slow
@pytest.mark.parametrize("policy", NARROW)
@pytest.mark.parametrize("way", WAYS)
def test_upsampling_trains_under_xla(policy, way):
    assert not run("UpSampling2D, bilinear", policy, way, jit_compile=True)


def test_the_check_can_fail():
    keras.config.set_dtype_policy("mixed_bfloat16")
    name = "UpSampling2D, bilinear"
    assert train(make(name), inputs_of(name), True, "bfloat16")


def test_every_layer_of_keras_is_here():
    found = {x for x in dir(layers) if isinstance(getattr(layers, x), type)}
    found = {x for x in found if issubclass(getattr(layers, x), layers.Layer)}
    aliases = {x for x in found if getattr(layers, x).__name__ != x}
    assert found - aliases <= {*NAMES, *OF_PHOTOS, *EXCLUDED}


@pytest.mark.parametrize(
    "cls", [c for c, d in DEFAULTS.items() if d.precision == "float32"]
)
def test_defaults_of_float32_hold_under_a_global_policy(cls):
    arguments = () if cls is layers.Softmax else (2,)
    with tfmp.policy_scope("mixed_float16"):
        assert cls(*arguments).compute_dtype == "float32"
        assert cls(*arguments, dtype="float16").compute_dtype == "float16"
    with tfmp.policy_scope("mixed_bfloat16"):
        layer = cls(*arguments)
    wide = default_of(layer, "bfloat16").precision == "float32"
    assert (layer.compute_dtype == "float32") == wide
    assert cls(*arguments).dtype_policy.name == "float32"


def test_the_kept_table_is_whole_and_only_faults_of_keras_are_in_it():
    table = json.loads(RESULT.read_text())["rows"]
    assert table.keys() == set(NAMES)
    policies = ("float32", *NARROW)
    modes = ("XLA", "graph")
    columns = {
        f"{policy}, {way}, {mode}"
        for policy in policies
        for way in WAYS
        for mode in modes
    }
    assert all(row.keys() == columns for row in table.values())
    ours = [
        (name, column)
        for name, row in table.items()
        for column, wrong in row.items()
        if wrong and not row[f"float32, {column.partition(', ')[2]}"]
    ]
    assert not ours
