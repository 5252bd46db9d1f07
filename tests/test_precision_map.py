"""tfmp.PrecisionMap: which policy a path has."""

import json

import keras
import pytest

import tfmp
from tfmp import PrecisionMap
from tfmp.recipes import DelayedScaling

FULL = {
    "gpt/head": "float32",
    "block_[0-3]/attn": tfmp.Policy("mixed_float8", "current"),
    "block_.*": "mixed_bfloat16",
    "stem": "mixed_float16",
}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gpt/head", "float32"),
        ("gpt/head/dense", "float32"),
        ("gpt/heads", "mixed_float8"),
        ("head", "mixed_float8"),
        ("gpt/block_2/attn", "mixed_float8"),
        ("gpt/block_2/attn/query", "mixed_float8"),
        ("gpt/block_4/attn", "mixed_bfloat16"),
        ("block_2/ffn/wide", "mixed_bfloat16"),
        ("stem", "mixed_float16"),
        ("a/b/stem/c", "mixed_float16"),
        ("system", "mixed_float8"),
    ],
)
def test_paths(path, name):
    assert PrecisionMap(FULL, "mixed_float8")[path].name == name


def test_an_exact_path_goes_first_and_then_the_first_pattern():
    both = {"a.*": "float32", ".*b": "float16", "ab": "bfloat16"}
    assert PrecisionMap(both)["ab"].name == "bfloat16"
    del both["ab"]
    assert PrecisionMap(both)["ab"].name == "float32"
    assert PrecisionMap(dict(reversed(both.items())))["ab"].name == "float16"


def test_the_default_is_the_global_policy_of_its_time():
    with tfmp.policy_scope("mixed_float16"):
        choice = PrecisionMap({"a": "float32"})
    assert choice["b"].name == choice.default_policy.name == "mixed_float16"
    with tfmp.policy_scope(choice, convert=False):
        assert PrecisionMap()["b"].name == "mixed_float16"


def test_recipes_are_kept():
    choice = PrecisionMap(FULL, "mixed_float8")
    assert choice["block_1/attn"].recipe == tfmp.recipes.get("current")
    assert choice["else"].recipe == DelayedScaling()


@pytest.mark.parametrize("default", ["mixed_bfloat16", None])
def test_config_round_trip(default):
    recipe = DelayedScaling(margin=2, amax_history_len=7)
    policies = {**FULL, "last": tfmp.Policy("mixed_float8", recipe)}
    choice = PrecisionMap(policies, default)
    config = json.loads(json.dumps(keras.dtype_policies.serialize(choice)))
    again = keras.dtype_policies.deserialize(config)
    assert again.get_config() == choice.get_config()
    assert again["last"].recipe == recipe and list(again) == list(policies)


def test_a_layer_keeps_it_in_a_file(tmp_path):
    choice = PrecisionMap({"a": "float32"}, default="mixed_bfloat16")
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(3, name="a", dtype=choice),
            tfmp.layers.Dense(2, name="b", dtype=choice),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [x.compute_dtype for x in loaded.layers] == ["float32", "bfloat16"]
    assert isinstance(loaded.layers[0].dtype_policy, PrecisionMap)


@pytest.mark.parametrize("ending", ["json", "yaml", "yml"])
def test_files(tmp_path, ending):
    path = tmp_path / f"map.{ending}"
    recipe = DelayedScaling(margin=1)
    policies = {**FULL, "odd": tfmp.Policy("mixed_float8", recipe)}
    choice = PrecisionMap(policies, "mixed_float8")
    choice.save(path)  # JSON is YAML
    assert PrecisionMap.load(path).get_config() == choice.get_config()


def test_a_file_by_hand(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(
        "default: mixed_float8\n"
        "policies:\n"
        "  head: float32\n"
        "  attn: {name: mixed_float8, recipe: current}\n"
    )
    choice = PrecisionMap.load(path)
    assert choice["x/attn/q"].recipe == tfmp.recipes.get("current")
    assert choice["head"].name == "float32"


def test_a_file_may_hold_the_policies_alone(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("head: float32\nattn: {name: mixed_float8}\n")
    with tfmp.policy_scope("mixed_bfloat16"):
        choice = PrecisionMap.load(path)
    names = [choice[key].name for key in ("x/head", "attn", "else")]
    assert names == ["float32", "mixed_float8", "mixed_bfloat16"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "the keys ['default', 'policies']"),
        ("{default: float32, head: float32}", "the keys ['default',"),
        ("{head: float9}", "'float9'"),
        ("{head: 8}", "`policies['head']`"),
        ("{", "flow"),
    ],
)
def test_a_file_of_something_else_shows_the_two_forms(tmp_path, text, reason):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="the file of `path`") as caught:
        PrecisionMap.load(path)
    for said in ('{"head": "float32"}, or {"default": ', reason, str(path)):
        assert said in str(caught.value)


def test_it_prints_what_it_holds():
    text = repr(PrecisionMap(FULL, "mixed_float8"))
    assert "'gpt/head': 'float32'" in text and "'recipe': 'current'" in text


@pytest.mark.parametrize(
    ("policies", "default", "error"),
    [
        (["a"], None, TypeError),
        ({3: "float32"}, None, TypeError),
        ({"(": "float32"}, None, ValueError),
        ({"a": "float33"}, None, ValueError),
        ({"a": 32}, None, TypeError),
        ({"a": PrecisionMap()}, None, TypeError),
        ({}, PrecisionMap(), TypeError),
        ({"a": {"name": "float32", "recipe": "current"}}, None, ValueError),
    ],
)
def test_bad_arguments(policies, default, error):
    with pytest.raises(error):
        PrecisionMap(policies, default)


def test_keys_that_hold_for_nothing():
    choice = PrecisionMap(FULL)
    assert choice.unmatched(["gpt/head", "gpt/block_9"]) == [
        "block_[0-3]/attn",
        "stem",
    ]
