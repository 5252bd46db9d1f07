"""tfmp.policies: what a policy is, and that nothing on its way loses it."""

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import dtype_policies, layers

import tfmp
from tfmp import Policy, hardware, policies, recipes

ROOT = pathlib.Path(__file__).resolve().parent.parent

RECIPES = (
    recipes.DelayedScaling(),
    recipes.DelayedScaling(
        attention=True,
        margin=2,
        fp8_format=("E5M2", "E4M3", "E5M2"),
        high_precision=("kernel_grad",),
        high_precision_projections=("output",),
        amax_history_len=5,
        amax_compute_algo="most_recent",
        current=("inputs", "grads"),
    ),
    recipes.DelayedScaling(fp8_format=("E4M3", "E5M2", "E4M3")),
    recipes.CurrentScaling(
        attention=True,
        margin=3,
        fp8_format=("E5M2", "E4M3", "E4M3"),
        high_precision=("output", "input_grad"),
        high_precision_projections=("kernel_grad",),
    ),
    recipes.CurrentScaling(fp8_format=("E4M3", "E5M2", "E4M3")),
    recipes.StaticScaling(scale=(1.0, 2.0, 4.0), attention=True),
)
POLICIES = (
    *(Policy(name) for name in policies.NAMES if name != "mixed_float8"),
    *(Policy("mixed_float8", recipe) for recipe in RECIPES),
)
DELAYED, CURRENT = POLICIES[-5], POLICIES[-3]

each_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)
each_name = pytest.mark.parametrize("name", policies.NAMES)


def check_same(policy: Any, expected: Policy) -> None:
    """Fails unless a policy is a `Policy` and the expected one throughout."""
    assert type(policy) is Policy
    assert policy == expected
    assert policy.name == expected.name
    assert policy.compute_dtype == expected.compute_dtype
    assert policy.variable_dtype == expected.variable_dtype
    assert type(policy.recipe) is type(expected.recipe)
    if expected.recipe is not None:
        for field in dataclasses.fields(expected.recipe):
            found = getattr(policy.recipe, field.name)
            assert found == getattr(expected.recipe, field.name), field.name


@pytest.mark.parametrize(
    "kind", [recipes.DelayedScaling, recipes.CurrentScaling]
)
def test_the_recipes_here_set_every_field(kind):
    default = kind()
    for field in dataclasses.fields(kind):
        values = [getattr(r, field.name) for r in RECIPES if type(r) is kind]
        assert set(values) - {getattr(default, field.name)}, field.name


@pytest.mark.parametrize(
    "other", [*POLICIES[:-1], keras.DTypePolicy("float32")]
)
def test_check_same_can_fail(other):
    with pytest.raises(AssertionError):
        check_same(other, POLICIES[-1])


# What a policy is.


@pytest.mark.parametrize(
    ("name", "compute", "variable"),
    [
        ("float32", "float32", "float32"),
        ("float16", "float16", "float16"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("mixed_float16", "float16", "float32"),
        ("mixed_bfloat16", "bfloat16", "float32"),
        ("mixed_float8", "bfloat16", "float32"),
    ],
)
def test_the_table_of_names(name, compute, variable):
    policy = Policy(name)
    assert isinstance(policy, keras.DTypePolicy)
    assert policy.name == name
    assert (policy.compute_dtype, policy.variable_dtype) == (compute, variable)
    assert policy.quantization_mode is None
    recipe = recipes.DelayedScaling() if name == "mixed_float8" else None
    assert policy.recipe == recipe == policies.recipe_of(policy)
    if name != "mixed_float8":
        stock = keras.DTypePolicy(name)
        assert (stock.compute_dtype, stock.variable_dtype) == (
            compute,
            variable,
        )
    for dtype in (policy, name):
        layer = tfmp.layers.Dense(2, dtype=dtype)
        outputs = layer(np.ones([1, 4], "float32"))
        assert (outputs.dtype, layer.kernel.dtype) == (compute, variable)


def test_the_table_has_every_name():
    rows = [
        line.split("|") for line in Policy.__doc__.split("\n") if "`" in line
    ]
    assert tuple(r[1].strip(" `") for r in rows if len(r) > 3) == policies.NAMES


@pytest.mark.parametrize("recipe", recipes.PRESETS)
def test_a_recipe_by_name_value_or_config(recipe):
    expected = recipes.PRESETS[recipe]
    for given in (recipe, expected, recipes.serialize(expected)):
        assert Policy("mixed_float8", given).recipe == expected
    assert Policy("mixed_float8", recipe=recipe).recipe == expected


@pytest.mark.parametrize(
    ("arguments", "error", "argument"),
    [
        ((8,), TypeError, "name"),
        ((["float32"],), TypeError, "name"),
        ((keras.DTypePolicy("float32"),), TypeError, "name"),
        (("float24",), ValueError, "name"),
        (("",), ValueError, "name"),
        (("mixed-float8",), ValueError, "name"),
        (("float8_from_mixed_bfloat16",), ValueError, "name"),
        (("float32", "delayed"), ValueError, "recipe"),
        (("mixed_bfloat16", recipes.CurrentScaling()), ValueError, "recipe"),
        (("float32", False), ValueError, "recipe"),
        (("mixed_float8", "fast"), ValueError, "recipe"),
        (("mixed_float8", ""), ValueError, "recipe"),
        (("mixed_float8", 0), TypeError, "recipe"),
        (("mixed_float8", False), TypeError, "recipe"),
        (("mixed_float8", ()), TypeError, "recipe"),
        (("mixed_float8", recipes.CurrentScaling), TypeError, "recipe"),
        (("mixed_float8", {}), TypeError, "recipe"),
        (("mixed_float8", {"class_name": "Fast"}), ValueError, "recipe"),
        (
            ("mixed_float8", {"class_name": "CurrentScaling"}),
            (TypeError, ValueError),
            "config",
        ),
        (
            (
                "mixed_float8",
                {"class_name": "CurrentScaling", "config": {"a": 1}},
            ),
            (TypeError, ValueError),
            "config",
        ),
    ],
    ids=str,
)
def test_errors_name_the_argument(arguments, error, argument):
    with pytest.raises(error, match=rf"^`{argument}.*` must.* Received: "):
        Policy(*arguments)


def test_equality():
    for i, one in enumerate(POLICIES):
        for j, other in enumerate(POLICIES):
            same = copy.deepcopy(other)
            assert (one == same) == (i == j) == (same == one)
            assert (one != same) == (i != j) == (same != one)
            assert (hash(one) == hash(same)) == (i == j)
    assert len({*POLICIES, *copy.deepcopy(POLICIES)}) == len(POLICIES)
    assert Policy("mixed_float8") == Policy("mixed_float8", "delayed")


@pytest.mark.parametrize(
    "other",
    [
        keras.DTypePolicy("float16"),
        # It says False before it asks: only False can be symmetrical.
        dtype_policies.FloatDTypePolicy("float32"),
        dtype_policies.DTypePolicyMap(Policy("float32")),
        dtype_policies.QuantizedDTypePolicy("int8", "float32"),
        "float32",
        None,
    ],
    ids=lambda other: type(other).__name__,
)
def test_a_policy_equals_no_other_class(other):
    policy = Policy("float32")
    assert not policy == other
    assert not other == policy
    assert policy != other
    assert other != policy


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16", "float64"])
def test_a_policy_equals_that_of_keras(name):
    ours, stock = Policy(name), keras.DTypePolicy(name)
    assert ours == stock and stock == ours
    assert not ours != stock and not stock != ours
    assert hash(ours) == hash(Policy(name))  # Keras' has none


@pytest.mark.parametrize("name", ["float64", "int8", "uint8"])
def test_any_other_dtype(name):
    policy = Policy(name)
    assert (policy.name, policy.recipe) == (name, None)
    assert policy.compute_dtype == policy.variable_dtype == name
    assert policy.get_config() == {"name": name}


@each_policy
def test_without_a_name_it_is_the_global_one(policy):
    tfmp.set_global_policy(policy, convert=False)
    check_same(Policy(), policy)
    if policy.recipe is not None:
        expected = Policy("mixed_float8", "current")
        check_same(Policy(recipe="current"), expected)


def test_repr():
    assert repr(Policy("float16")) == '<Policy "float16">'
    assert repr(Policy("mixed_float8", "current_e4m3")) == (
        "<Policy \"mixed_float8\", recipe=CurrentScaling(fp8_format='E4M3')>"
    )


def test_get():
    assert policies.get(CURRENT) is CURRENT
    for name in policies.NAMES:
        check_same(policies.get(name), Policy(name))
    check_same(policies.get(dtype_policies.serialize(DELAYED)), DELAYED)
    tfmp.set_global_policy(CURRENT)
    assert policies.get(None) is CURRENT
    stock = policies.get("float64")
    assert (type(stock), stock.name) == (keras.DTypePolicy, "float64")
    assert policies.recipe_of(stock) is None


def test_a_preset_follows_a_colon_wherever_a_name_is_taken():
    with tfmp.policy_scope("fp8:current", convert=False) as policy:
        check_same(policy, Policy("mixed_float8", "current"))
    check_same(policies.get("Mixed_Float8:current"), policy)
    check_same(tfmp.PrecisionMap({"a": "fp8:current"})["a"], policy)
    check_same(tfmp.configure("fp8:current", convert=False).policy, policy)
    dense = keras.layers.Dense(4)
    model = keras.Sequential([keras.Input([8]), dense])
    tfmp.convert(model, "fp8:current", "all")
    check_same(dense.dtype_policy, policy)


@pytest.mark.parametrize(
    ("name", "recipe", "message"),
    [
        ("fp8:other", None, "`recipe` must be one of"),
        ("fp8:", None, "`recipe` must be one of"),
        ("fp8:current", "delayed", "None if `name` has one"),
        ("fp32:current", None, "other than 'mixed_float8'"),
    ],
)
def test_a_wrong_preset_is_told(name, recipe, message):
    with pytest.raises(ValueError, match=message):
        Policy(name, recipe)


# The global policy.


@each_name
def test_set_global_policy(name):
    tfmp.set_global_policy(name)
    check_same(tfmp.global_policy(), Policy(name))
    assert keras.config.dtype_policy() is tfmp.global_policy()
    layer = layers.Conv2D(2, 3)
    check_same(layer.dtype_policy, Policy(name))
    check_same(tfmp.layers.Dense(2).dtype_policy, Policy(name))


def test_a_stock_policy_is_set_as_it_is():
    stock = keras.DTypePolicy("mixed_bfloat16")
    with tfmp.policy_scope(stock) as found:
        assert found is stock is tfmp.global_policy()
    tfmp.set_global_policy(stock)
    assert tfmp.global_policy() is stock


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (None, TypeError),
        (32, TypeError),
        (["float32"], TypeError),
        (Policy, TypeError),
        (recipes.CurrentScaling(), TypeError),
        ("float64", ValueError),
        ("current", ValueError),
    ],
    ids=str,
)
def test_a_wrong_global_policy_changes_nothing(policy, error):
    tfmp.set_global_policy(CURRENT)
    for function in (tfmp.set_global_policy, enter):
        with pytest.raises(error, match=r"^`policy` must.* Received: "):
            function(policy)
        assert tfmp.global_policy() is CURRENT


def enter(policy: Any) -> None:
    with tfmp.policy_scope(policy, convert=False):
        pass


def test_scopes_nest():
    before = tfmp.global_policy()
    with tfmp.policy_scope("mixed_float16") as outer:
        check_same(outer, Policy("mixed_float16"))
        with tfmp.policy_scope(CURRENT) as inner:
            assert inner is CURRENT is tfmp.global_policy()
            tfmp.set_global_policy("bfloat16")
        assert tfmp.global_policy() is outer
    assert tfmp.global_policy() is before


@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, StopIteration]
)
def test_a_scope_restores_on_error(error):
    before = tfmp.global_policy()

    def fail():
        with tfmp.policy_scope("mixed_float16"), tfmp.policy_scope(CURRENT):
            assert tfmp.global_policy() is CURRENT
            raise error("on purpose")

    # contextlib makes a RuntimeError of a StopIteration only in generators.
    with pytest.raises(error, match="on purpose"):
        fail()
    assert tfmp.global_policy() is before


def test_a_scope_restores_on_return():
    def leaves():
        with tfmp.policy_scope(CURRENT):
            return tfmp.global_policy()

    before = tfmp.global_policy()
    assert leaves() is CURRENT
    assert tfmp.global_policy() is before


def test_a_scope_as_a_decorator():
    @tfmp.policy_scope(CURRENT)
    def build():
        return layers.Conv2D(2, 3)

    for _ in range(2):
        check_same(build().dtype_policy, CURRENT)
    assert tfmp.global_policy().name == "float32"


def test_each_thread_has_its_own_policy():
    """As in Keras: a thread starts with float32."""
    inside, leave, found = threading.Event(), threading.Event(), []

    def work():
        found.append(tfmp.global_policy().name)
        with tfmp.policy_scope(CURRENT):
            inside.set()
            leave.wait(10)
            found.append(layers.Dense(2).dtype_policy)
        found.append(tfmp.global_policy().name)

    tfmp.set_global_policy("mixed_float16")
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    with tfmp.policy_scope("bfloat16"):
        leave.set()
        thread.join(10)
        check_same(tfmp.global_policy(), Policy("bfloat16"))
    assert tfmp.global_policy().name == "mixed_float16"
    assert found == ["float32", CURRENT, "float32"]


# Round trips.


def through_json(config: Any) -> Any:
    return json.loads(json.dumps(config))


def through_layer(layer: layers.Layer) -> keras.DTypePolicy:
    for _ in range(2):
        layer = type(layer).from_config(through_json(layer.get_config()))
    return layer.dtype_policy


def through_object(policy: Policy) -> Any:
    config = through_json(keras.saving.serialize_keras_object(policy))
    return keras.saving.deserialize_keras_object(config)


def through_wrapper(policy: Policy) -> Any:
    layer = layers.TimeDistributed(layers.Dense(2, dtype=policy))
    return type(layer).from_config(layer.get_config()).layer.dtype_policy


def through_scope(policy: Policy) -> Any:
    with tfmp.policy_scope(policy, convert=False):
        layer = layers.ReLU()
    return through_layer(layer)


ROUND_TRIPS: dict[str, Callable[[Policy], Any]] = {
    "config": lambda p: Policy.from_config(through_json(p.get_config())),
    "serialize": lambda p: dtype_policies.deserialize(
        through_json(dtype_policies.serialize(p))
    ),
    "serialize_keras_object": through_object,
    "dtype_policies.get": lambda p: dtype_policies.get(
        dtype_policies.serialize(p)
    ),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda p: pickle.loads(pickle.dumps(p)),
    "stock layer": lambda p: through_layer(layers.Conv2D(2, 3, dtype=p)),
    "tfmp layer": lambda p: through_layer(tfmp.layers.Dense(2, dtype=p)),
    "layer without get_config": through_scope,
    "wrapper": through_wrapper,
    "dict": lambda p: (
        layers.Conv2D(2, 3, dtype=dtype_policies.serialize(p)).dtype_policy
    ),
    "dict, tfmp": lambda p: (
        tfmp.layers.Dense(2, dtype=dtype_policies.serialize(p)).dtype_policy
    ),
}


@each_policy
@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_round_trip_keeps_every_field(way, policy):
    check_same(ROUND_TRIPS[way](policy), policy)


@each_policy
def test_a_loaded_layer_is_cloned(policy):
    with tfmp.policy_scope(policy, convert=False):
        model = keras.Sequential(
            [keras.Input((4,)), layers.ELU(), tfmp.layers.Dense(2)]
        )
    for _ in range(2):
        model = keras.models.clone_model(model)
        for layer in model.layers:
            check_same(layer.dtype_policy, policy)


# How `keras.Operation.from_config` is passed: see `Policy.name`.


@keras.saving.register_keras_serializable("tests")
class Stock(keras.DTypePolicy):
    """A subclass that does nothing against it."""


class Records(keras.Operation):
    def __init__(self, dtype: Any = None) -> None:
        super().__init__()
        self.given = dtype


def given_by_from_config(policy: keras.DTypePolicy) -> Any:
    config = {"dtype": dtype_policies.serialize(policy)}
    return Records.from_config(config).given


def test_keras_still_reduces_a_policy_to_its_name():
    """If this fails, `Policy.name` need not look who asks any more."""
    assert given_by_from_config(Stock("float32")) == "float32"


@each_policy
def test_from_config_gets_the_serialized_policy(policy):
    """If this fails, Keras changed, and stock layers lose their policy."""
    assert given_by_from_config(policy) == dtype_policies.serialize(policy)


@each_policy
def test_everyone_else_gets_the_name(policy):
    class Asks(layers.Layer):
        @classmethod
        def from_config(cls, config):
            return config["dtype"].name

    assert Asks.from_config({"dtype": policy}) == policy.get_config()["name"]
    assert getattr(policy, "name") == f"{policy.name}"  # noqa: B009
    assert isinstance(policy.name, str)
    assert policy.quantization_mode is None


# Keras' map of policies.


def test_a_map_keeps_policies():
    policy_map = dtype_policies.DTypePolicyMap(DELAYED)
    policy_map["a/.*"] = CURRENT
    policy_map["b"] = dtype_policies.serialize(CURRENT)
    found = dtype_policies.deserialize(
        through_json(dtype_policies.serialize(policy_map))
    )
    for each in (policy_map, found):
        assert each.name == "map_mixed_float8"
        assert each.compute_dtype == "bfloat16"
        assert each.quantization_mode is None
        check_same(each.default_policy, DELAYED)
        check_same(each["a/x"], CURRENT)
        check_same(each["b"], CURRENT)


def test_a_map_without_default_keeps_its_entries():
    """`DTypePolicyMap.get_config` then clears the name of Keras' own."""
    policy, stock = copy.copy(CURRENT), keras.DTypePolicy("float16")
    policy_map = dtype_policies.DTypePolicyMap()
    policy_map["a"], policy_map["b"] = policy, stock
    config = through_json(dtype_policies.serialize(policy_map))
    assert stock.name is None
    check_same(policy, CURRENT)
    assert hash(policy) == hash(CURRENT)
    assert repr(policy) == repr(CURRENT)
    check_same(dtype_policies.deserialize(config)["a"], CURRENT)


@pytest.mark.parametrize("kind", [layers.Dense, tfmp.layers.Dense])
def test_a_layer_with_a_map(kind):
    policy_map = dtype_policies.DTypePolicyMap(Policy("mixed_float16"))
    policy_map["here"] = CURRENT
    layer = kind(2, name="here", dtype=policy_map)
    for each in (layer, kind.from_config(layer.get_config())):
        # Keras casts the inputs of a first call before it knows the path.
        each.build((None, 4))
        outputs = each(np.ones([1, 4], "float32"))
        assert outputs.dtype == each.compute_dtype == "bfloat16"
        check_same(each.dtype_policy["here"], CURRENT)
        if kind is tfmp.layers.Dense:
            assert each.recipe == CURRENT.recipe


# A policy that is set on a layer.


@pytest.mark.parametrize("built", [False, True])
def test_a_stock_layer_is_given_a_policy(built):
    images = np.ones([1, 4, 4, 3], "float32")
    layer = layers.Conv2D(2, 3, kernel_initializer="ones")
    if built:
        assert layer(images).dtype == "float32"
    layer.dtype_policy = CURRENT
    check_same(layer.dtype_policy, CURRENT)
    assert layer(images).dtype == "bfloat16"
    assert layer.kernel.dtype == "float32"
    check_same(through_layer(layer), CURRENT)


@pytest.mark.parametrize("built", [False, True])
def test_a_tfmp_layer_is_given_a_policy(built):
    vectors = np.ones([1, 4], "float32")
    layer = tfmp.layers.Dense(2)
    if built:
        assert layer(vectors).dtype == "float32"
    layer.dtype_policy = CURRENT
    assert layer(vectors).dtype == "bfloat16"
    check_same(through_layer(layer), CURRENT)


# Models, in files and copied.


@keras.saving.register_keras_serializable("tests")
class Block(keras.Model):
    """A subclassed model; its inner layers have two policies."""

    def __init__(self, units: int, outer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.outer = dtype_policies.get(outer)
        self.inner = tfmp.layers.Dense(units, dtype=self.dtype_policy)
        self.norm = layers.LayerNormalization(dtype=self.outer)

    def call(self, inputs: Any) -> Any:
        return self.norm(self.inner(inputs))

    def get_config(self) -> dict[str, Any]:
        outer = dtype_policies.serialize(self.outer)
        return {**super().get_config(), "units": self.units, "outer": outer}


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.ELU(),
            tfmp.layers.Dense(8, "relu", dtype=DELAYED),
            layers.Dense(8, dtype=CURRENT),
            layers.Dropout(0.5, dtype=Policy("mixed_float16")),
            tfmp.layers.Dense(8, dtype=CURRENT),
            layers.Dense(2, dtype="float32"),
        ]
    )


def functional() -> keras.Model:
    inputs = keras.Input((6, 4))
    x = tfmp.layers.EinsumDense("abc,cd->abd", (None, 8), dtype=DELAYED)(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, dtype=CURRENT)(x, x)])
    x = layers.TimeDistributed(tfmp.layers.Dense(4, dtype=DELAYED))(x)
    x = layers.Bidirectional(layers.GRU(3), dtype=Policy("mixed_bfloat16"))(x)
    return keras.Model(inputs, layers.Dense(2, dtype="float32")(x))


def subclassed() -> keras.Model:
    model = Block(4, outer=CURRENT, dtype=DELAYED)
    model(np.zeros([1, 6], "float32"))
    return model


def nested() -> keras.Model:
    inputs = keras.Input((6,))
    x = sequential()(inputs)
    x = Block(4, outer=DELAYED, dtype=CURRENT)(x)
    return keras.Model(inputs, sequential_of(4)(x))


def sequential_of(width: int) -> keras.Model:
    return keras.Sequential(
        [keras.Input((width,)), tfmp.layers.Dense(2, dtype="mixed_float8")]
    )


MODELS = (sequential, functional, subclassed, nested)


def computing_layers(model: keras.Model) -> Iterator[layers.Layer]:
    """Yields all layers but those whose policy Keras never stores."""
    functional_class = type(keras.Model(*2 * [keras.Input((1,))]))
    containers = (keras.Sequential, functional_class, layers.InputLayer)
    for layer in model._flatten_layers():
        if not isinstance(layer, containers):
            yield layer


def check_same_model(model: keras.Model, expected: keras.Model) -> None:
    found = {}
    pairs = zip(
        computing_layers(model), computing_layers(expected), strict=True
    )
    for layer, other in pairs:
        assert type(layer) is type(other)
        if isinstance(other.dtype_policy, Policy):
            check_same(layer.dtype_policy, other.dtype_policy)
        else:
            assert layer.dtype_policy == other.dtype_policy
        found[
            layer.dtype_policy.name, policies.recipe_of(layer.dtype_policy)
        ] = 1
    assert len(found) > 1
    inputs = np.random.default_rng(0).normal(size=(2, *input_shape(expected)))
    inputs = inputs.astype("float32")
    assert np.array_equal(model(inputs), expected(inputs))


def input_shape(model: keras.Model) -> tuple[int, ...]:
    return (6,) if isinstance(model, Block) else model.input_shape[1:]


@pytest.mark.slow_but("[functional", "[sequential-mixed")
@pytest.mark.parametrize("around", ["mixed_float16", CURRENT], ids=str)
@pytest.mark.parametrize("build", MODELS)
def test_a_keras_file_keeps_the_policies(build, around, tmp_path):
    with tfmp.policy_scope("mixed_bfloat16"):
        model = build()
    model.save(tmp_path / "1.keras")
    with tfmp.policy_scope(around, convert=False):
        loaded = keras.models.load_model(tmp_path / "1.keras")
        check_same_model(loaded, model)
        loaded.save(tmp_path / "2.keras")
    check_same_model(keras.models.load_model(tmp_path / "2.keras"), model)


@pytest.mark.parametrize("build", MODELS)
def test_a_clone_keeps_the_policies(build):
    model = build()
    if isinstance(model, Block):
        clone = Block.from_config(model.get_config())
        clone(np.zeros([1, 6], "float32"))
    else:
        clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    check_same_model(clone, model)


def test_check_same_model_can_fail():
    def build(policy):
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(2, dtype="bfloat16", name="a"),
                layers.Dropout(0.5, dtype=policy, name="b"),
            ]
        )

    check_same_model(build(CURRENT), build(CURRENT))
    for policy in (Policy("mixed_bfloat16"), DELAYED):
        with pytest.raises(AssertionError):
            check_same_model(build(policy), build(CURRENT))


LOAD = """
import json, sys
import tfmp, keras
model = keras.models.load_model(sys.argv[1])
print(json.dumps([
    keras.dtype_policies.serialize(layer.dtype_policy)
    for layer in model._flatten_layers()
]))
"""


@pytest.mark.slow
def test_a_new_process_needs_only_tfmp(tmp_path):
    model = functional()
    model.save(tmp_path / "model.keras")
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "model.keras"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    # All was made under the policy of a new process: even what is not stored.
    expected = [
        dtype_policies.serialize(layer.dtype_policy)
        for layer in model._flatten_layers()
    ]
    assert json.loads(loaded.stdout) == through_json(expected)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("fp32", "float32"),
        ("FP16", "mixed_float16"),
        ("bf16", "mixed_bfloat16"),
        ("Fp8", "mixed_float8"),
        ("MIXED_FP16", "mixed_float16"),
        ("Mixed_BFloat16", "mixed_bfloat16"),
        ("BFloat16", "bfloat16"),
    ],
)
def test_names_as_people_write_them(written, name):
    """Wherever a policy's name is taken."""
    assert policies.Policy(written) == policies.Policy(name)
    assert policies.get(written) == policies.Policy(name)
    assert tfmp.layers.Dense(1, dtype=written).dtype_policy.name == name
    assert tfmp.PrecisionMap({"a": written})["a"].name == name
    with tfmp.policy_scope(written) as policy:
        assert policy.name == name
    with policies.policy_scope("float32"):
        machine = hardware.Hardware((hardware.Device("cpu", "x86_64"),))
        found = tfmp.configure(written, hardware=machine)
        assert found.policy.name == name
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    tfmp.convert(model, written, filter="all")
    assert model.layers[0].dtype_policy.name == name


def test_a_name_that_is_none_is_told_as_it_was_written():
    with pytest.raises(ValueError, match="'FP9'"):
        policies.Policy("FP9")
