"""tfmp.recipes: values, their round trips, and every error."""

import copy
import dataclasses
import itertools
import json
import pickle
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from tfmp import formats, recipes
from tfmp.recipes import CurrentScaling, DelayedScaling, StaticScaling

# No field of these has its default.
SHARED = {
    "margin": 3,
    "fp8_format": ("E5M2", "E4M3", "E5M2"),
    "high_precision": ("output", "kernel_grad"),
    "attention": True,
    "high_precision_projections": ("output",),
}
DELAYED = {
    **SHARED,
    "amax_history_len": 7,
    "amax_compute_algo": "most_recent",
    "current": ("inputs", "grads"),
}
STATIC = {**SHARED, "scale": (2.0, 1.0, 2.0**-64)}
CLASSES = (DelayedScaling, CurrentScaling, StaticScaling)
FULL = (
    DelayedScaling(**DELAYED),
    CurrentScaling(**SHARED),
    StaticScaling(**STATIC),
)
EXAMPLES = (*FULL, *recipes.PRESETS.values())

each_class = pytest.mark.parametrize("cls", CLASSES)
each_example = pytest.mark.parametrize("recipe", EXAMPLES, ids=repr)

formats_of_roles = st.sampled_from(["E4M3", "E5M2", formats.E5M2])
subsets = {
    "high_precision": st.lists(st.sampled_from(recipes.PRODUCTS)),
    "current": st.lists(st.sampled_from(recipes.ROLES)).map(tuple),
}


def has_no_e5m2_by_e5m2(fields):
    given = fields["fp8_format"]
    three = recipes.FP8_FORMATS.get(given, given)
    names = [getattr(each, "name", each) for each in three]
    roles = dict(zip(recipes.ROLES, names, strict=True))
    return not any(
        roles[a] == roles[b] == "E5M2" and p not in fields["high_precision"]
        for p, (a, b) in recipes.OPERANDS.items()
    )


shared_fields = {
    "margin": st.integers(0, 16),
    "fp8_format": st.one_of(
        st.sampled_from(["HYBRID", "E4M3"]), st.tuples(*[formats_of_roles] * 3)
    ),
    "high_precision": subsets["high_precision"],
    "attention": st.booleans(),
    "high_precision_projections": subsets["high_precision"],
}
delayed_fields = {
    **shared_fields,
    "amax_history_len": st.integers(1, 4096),
    "amax_compute_algo": st.sampled_from(["max", "most_recent"]),
    "current": subsets["current"],
}
powers = st.integers(-64, 64).map(lambda power: 2.0**power)
static_fields = {
    **shared_fields,
    "scale": st.one_of(powers, st.tuples(*[powers] * 3)),
}
any_recipe = st.one_of(
    st.fixed_dictionaries(fields)
    .filter(has_no_e5m2_by_e5m2)
    .map(lambda values, cls=cls: cls(**values))
    for cls, fields in (
        (DelayedScaling, delayed_fields),
        (CurrentScaling, shared_fields),
        (StaticScaling, static_fields),
    )
)


def test_the_examples_have_no_default():
    for recipe in FULL:
        for field in dataclasses.fields(recipe):
            assert getattr(recipe, field.name) != field.default, field.name


def check_round_trip(recipe):
    assert type(recipe).from_config(recipe.get_config()) == recipe
    through_text = json.loads(json.dumps(recipes.serialize(recipe)))
    assert through_text == recipes.serialize(recipe)
    again = recipes.get(through_text)
    assert type(again) is type(recipe)
    for field in dataclasses.fields(recipe):
        value = getattr(again, field.name)
        assert value == getattr(recipe, field.name)
        assert type(value) is type(getattr(recipe, field.name))
    scope = {cls.__name__: cls for cls in CLASSES}
    named = eval(repr(recipe), {"__builtins__": {}}, scope)
    copies = copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))
    for other in (again, named, *copies):
        assert other == recipe
        assert hash(other) == hash(recipe)
        assert repr(other) == repr(recipe)


@each_example
def test_round_trip(recipe):
    check_round_trip(recipe)


@hypothesis.given(any_recipe)
def test_round_trip_of_any(recipe):
    check_round_trip(recipe)


@pytest.mark.parametrize("name", DELAYED)
def test_round_trip_can_fail(name, monkeypatch):
    def forgetful(self):
        config = original(self)
        del config[name]
        return config

    original = DelayedScaling.get_config
    monkeypatch.setattr(DelayedScaling, "get_config", forgetful)
    with pytest.raises((AssertionError, ValueError)):
        check_round_trip(FULL[0])


def test_config_has_every_field():
    assert FULL[0].get_config() == {
        **DELAYED,
        "fp8_format": ["E5M2", "E4M3", "E5M2"],
        "high_precision": ["output", "kernel_grad"],
        "high_precision_projections": ["output"],
        "current": ["inputs", "grads"],
    }
    assert set(FULL[1].get_config()) == set(SHARED)
    assert FULL[2].get_config()["scale"] == [2.0, 1.0, 2.0**-64]
    assert recipes.serialize(FULL[1])["class_name"] == "CurrentScaling"


@each_example
def test_a_changed_config_leaves_the_recipe_alone(recipe):
    config = recipe.get_config()
    config["high_precision"].append("output")
    config["margin"] += 1
    assert recipe.get_config() != config
    assert type(recipe).from_config(config) != recipe


@each_example
def test_frozen(recipe):
    for field in dataclasses.fields(recipe):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(recipe, field.name, getattr(recipe, field.name))
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(recipe, field.name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.anything = 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("margin", (0, 1)),
        ("fp8_format", ("HYBRID", "E4M3")),
        ("fp8_format", ("HYBRID", ("E5M2", "E4M3", "E4M3"))),
        ("high_precision", ((), ("output",))),
        ("high_precision_projections", ((), ("output",))),
        ("attention", (False, True)),
        ("amax_history_len", (16, 17)),
        ("amax_compute_algo", ("max", "most_recent")),
        ("current", ((), ("grads",))),
    ],
)
def test_every_field_counts_in_equality(name, values):
    a, b = (DelayedScaling(**{name: value}) for value in values)
    assert a != b
    assert a == dataclasses.replace(b, **{name: values[0]})
    assert len({a, b, dataclasses.replace(a)}) == 2


def test_a_given_list_is_copied():
    products, roles = ["kernel_grad"], ["grads"]
    recipe = DelayedScaling(high_precision=products, current=roles)
    before = hash(recipe)
    products.append("output")
    roles.clear()
    assert recipe.high_precision == ("kernel_grad",)
    assert recipe.current == ("grads",)
    assert hash(recipe) == before


def test_equality():
    for a, b in itertools.combinations(EXAMPLES, 2):
        assert a != b
    assert DelayedScaling() != CurrentScaling()
    hybrid = ["E4M3", formats.E4M3, "E5M2"]
    assert CurrentScaling(fp8_format=hybrid) == CurrentScaling()
    assert DelayedScaling(current=("grads", "inputs", "grads")) == (
        DelayedScaling(current=["inputs", "grads"])
    )
    assert CurrentScaling(high_precision=("kernel_grad", "output")) == (
        CurrentScaling(high_precision=("output", "kernel_grad"))
    )


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (DelayedScaling(), "DelayedScaling()"),
        (CurrentScaling(), "CurrentScaling()"),
        (CurrentScaling(fp8_format="HYBRID", margin=0), "CurrentScaling()"),
        (DelayedScaling(margin=2), "DelayedScaling(margin=2)"),
        (CurrentScaling(attention=False), "CurrentScaling()"),
        (CurrentScaling(attention=True), "CurrentScaling(attention=True)"),
        (
            CurrentScaling(fp8_format=("E5M2", formats.E4M3, "E4M3")),
            "CurrentScaling(fp8_format=('E5M2', 'E4M3', 'E4M3'))",
        ),
        (
            DelayedScaling(margin=1, current=("grads",)),
            "DelayedScaling(margin=1, current=('grads',))",
        ),
    ],
)
def test_repr_shows_what_is_not_default(recipe, text):
    assert repr(recipe) == text


@pytest.mark.parametrize(
    ("fp8_format", "expected"),
    [
        ("HYBRID", ("E4M3", "E4M3", "E5M2")),
        ("E4M3", ("E4M3", "E4M3", "E4M3")),
        (("E4M3", "E5M2", "E4M3"), ("E4M3", "E5M2", "E4M3")),
    ],
)
@each_class
def test_fp8_format(cls, fp8_format, expected):
    recipe = cls(fp8_format=fp8_format)
    for role, name in zip(("inputs", "kernel", "grads"), expected, strict=True):
        assert getattr(recipe, role) == name
        assert recipe.format(role) is formats.get(name)


@each_class
@pytest.mark.parametrize("delayed", list(itertools.product([0, 1], repeat=3)))
def test_is_delayed(cls, delayed):
    roles = [r for r, d in zip(recipes.ROLES, delayed, strict=True) if not d]
    recipe = cls(current=roles) if cls is DelayedScaling else cls()
    for role, expected in zip(recipes.ROLES, delayed, strict=True):
        assert recipe.is_delayed(role) == (
            bool(expected) and cls is DelayedScaling
        )


@pytest.mark.parametrize(
    ("high_precision", "quantized"),
    [
        ((), "inputs kernel grads"),
        (("output",), "inputs kernel grads"),
        (("kernel_grad",), "inputs kernel grads"),
        (("output", "input_grad"), "inputs grads"),
        (("output", "kernel_grad"), "kernel grads"),
        (("input_grad", "kernel_grad"), "inputs kernel"),
        (("output", "input_grad", "kernel_grad"), ""),
    ],
)
def test_high_precision(high_precision, quantized):
    recipe = CurrentScaling(high_precision=high_precision)
    for product in recipes.PRODUCTS:
        assert recipe.in_float8(product) == (product not in high_precision)
    assert [r for r in recipes.ROLES if recipe.quantizes(r)] == (
        quantized.split()
    )


@hypothesis.given(any_recipe)
def test_as_current(recipe):
    current = recipe.as_current()
    static = isinstance(recipe, StaticScaling)
    assert type(current) is (StaticScaling if static else CurrentScaling)
    for field in dataclasses.fields(current):
        assert getattr(current, field.name) == getattr(recipe, field.name)
    assert not any(current.is_delayed(role) for role in recipes.ROLES)
    assert current.as_current() == current


@each_class
def test_what_a_recipe_is_in_projections(cls):
    recipe = cls(
        margin=2,
        high_precision=("kernel_grad",),
        high_precision_projections=("output",),
    )
    expected = cls(margin=2, high_precision=("output", "kernel_grad"))
    assert recipe.in_projections() == expected
    assert expected.in_projections() is expected


# Field, value, error, and what of the value the message shows.
ERRORS = [
    ("margin", -1, ValueError, "-1"),
    ("margin", 17, ValueError, "17"),
    ("margin", 1.0, TypeError, "1.0"),
    ("margin", True, TypeError, "True"),
    ("margin", None, TypeError, "None"),
    ("fp8_format", "E5M2", ValueError, "'E5M2'"),
    ("fp8_format", "hybrid", ValueError, "'hybrid'"),
    ("fp8_format", None, TypeError, "None"),
    ("fp8_format", formats.E4M3, TypeError, repr(formats.E4M3)),
    ("fp8_format", ("E4M3",), ValueError, "('E4M3',)"),
    ("fp8_format", ("e4m3", "E4M3", "E4M3"), ValueError, "'e4m3'"),
    ("fp8_format", (formats.FLOAT16, *"ab"), ValueError, "'FLOAT16'"),
    ("fp8_format", ("E4M3", "float8_e5m2", ""), ValueError, "'float8_e5m2'"),
    ("fp8_format", ["E4M3", 8, "E4M3"], TypeError, "8"),
    ("fp8_format", ["E4M3", "E4M3", ""], ValueError, "''"),
    ("high_precision", ("outputs",), ValueError, "'outputs'"),
    ("high_precision", "output", TypeError, "'output'"),
    ("high_precision", (1,), TypeError, "1"),
    ("high_precision", None, TypeError, "None"),
    ("high_precision_projections", ("query",), ValueError, "'query'"),
    ("high_precision_projections", "output", TypeError, "'output'"),
    ("attention", 1, TypeError, "1"),
    ("attention", None, TypeError, "None"),
    ("attention", "dpa", TypeError, "'dpa'"),
]
ERRORS_OF_DELAYED_SCALING = [
    ("amax_history_len", 0, ValueError, "0"),
    ("amax_history_len", 4097, ValueError, "4097"),
    ("amax_history_len", 2.0, TypeError, "2.0"),
    ("amax_compute_algo", "mean", ValueError, "'mean'"),
    ("amax_compute_algo", None, TypeError, "None"),
    ("current", ("weight",), ValueError, "'weight'"),
    ("current", "grads", TypeError, "'grads'"),
]
ERRORS_OF_STATIC_SCALING = [
    ("scale", 3.0, ValueError, "3.0"),
    ("scale", 0, ValueError, "0"),
    ("scale", -2.0, ValueError, "-2.0"),
    ("scale", 2.0**65, ValueError, repr(2.0**65)),
    ("scale", float("nan"), ValueError, "nan"),
    ("scale", None, TypeError, "None"),
    ("scale", True, TypeError, "True"),
    ("scale", (1.0, 2.0), ValueError, "(1.0, 2.0)"),
    ("scale", [1.0, 6.0, 1.0], ValueError, "6.0"),
    ("scale", [1.0, "2", 1.0], TypeError, "'2'"),
]


def check_error(cls, name, value, error, received):
    with pytest.raises(error) as caught:
        cls(**{name: value})
    message = str(caught.value)
    assert re.match(rf"`{name}(\[\d\])?` must be ", message)
    assert message.endswith(f"Received: {received}")


@each_class
@pytest.mark.parametrize("case", ERRORS, ids=str)
def test_errors(cls, case):
    check_error(cls, *case)


@pytest.mark.parametrize("case", ERRORS_OF_DELAYED_SCALING, ids=str)
def test_errors_of_delayed_scaling(case):
    check_error(DelayedScaling, *case)
    name, value, _, _ = case
    with pytest.raises(TypeError, match=name):
        CurrentScaling(**{name: value})


@pytest.mark.parametrize("case", ERRORS_OF_STATIC_SCALING, ids=str)
def test_errors_of_static_scaling(case):
    check_error(StaticScaling, *case)


def test_every_field_has_its_errors():
    own = ERRORS_OF_DELAYED_SCALING + ERRORS_OF_STATIC_SCALING
    tried = {case[0] for case in ERRORS + own}
    fields = {f.name for cls in CLASSES for f in dataclasses.fields(cls)}
    assert tried == fields


def test_static_scales():
    one = StaticScaling(scale=2, margin=1)
    assert [one.static_scale(role) for role in recipes.ROLES] == [1.0] * 3
    three = StaticScaling(scale=(1, 2.0, 0.5))
    assert [three.static_scale(role) for role in recipes.ROLES] == [1, 2, 0.5]
    assert StaticScaling(scale=[4, 4.0, 4]) == StaticScaling(scale=4.0)
    assert CurrentScaling().static_scale("grads") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("margin", 0),
        ("margin", 16),
        ("amax_history_len", 1),
        ("amax_history_len", 4096),
    ],
)
def test_limits_are_allowed(name, value):
    assert getattr(DelayedScaling(**{name: value}), name) == value


def with_e5m2(*roles):
    return tuple("E5M2" if r in roles else "E4M3" for r in recipes.ROLES)


@each_class
@pytest.mark.parametrize(("product", "roles"), recipes.OPERANDS.items())
def test_e5m2_by_e5m2(cls, product, roles):
    both = {"fp8_format": with_e5m2(*roles)}
    with pytest.raises(ValueError) as caught:
        cls(**both)
    message = str(caught.value)
    for said in (*(f"`{role}`" for role in roles), f"'{product}'"):
        assert said in message
    assert message.endswith(f"Received: {roles[0]}='E5M2', {roles[1]}='E5M2'")
    for other in recipes.PRODUCTS:
        if other != product:
            with pytest.raises(ValueError, match="E5M2"):
                cls(**both, high_precision=(other,))
    allowed = cls(**both, high_precision=(product,))
    assert f"high_precision={allowed.high_precision!r}" in message
    assert not allowed.in_float8(product)
    for role in roles:
        assert cls(fp8_format=with_e5m2(role)).format(role).bias == 15


def test_operands_are_those_of_the_three_products():
    # y = x @ w, dx = dy @ w.T, dw = x.T @ dy
    assert {p: set(roles) for p, roles in recipes.OPERANDS.items()} == {
        "output": {"inputs", "kernel"},
        "input_grad": {"grads", "kernel"},
        "kernel_grad": {"inputs", "grads"},
    }


def test_presets():
    assert recipes.PRESETS == {
        "delayed": DelayedScaling(),
        "delayed_e4m3": DelayedScaling(fp8_format="E4M3"),
        "delayed_high_precision_kernel_grad": DelayedScaling(
            high_precision=("kernel_grad",)
        ),
        "delayed_e4m3_high_precision_output": DelayedScaling(
            fp8_format="E4M3", high_precision=("output",)
        ),
        "delayed_high_precision_projections": DelayedScaling(
            high_precision_projections=("output",)
        ),
        "current": CurrentScaling(),
        "current_e4m3": CurrentScaling(fp8_format="E4M3"),
        "current_high_precision_kernel_grad": CurrentScaling(
            high_precision=("kernel_grad",)
        ),
        "current_high_precision_projections": CurrentScaling(
            high_precision_projections=("output",)
        ),
        "static": StaticScaling(),
        "static_e4m3": StaticScaling(fp8_format="E4M3"),
    }
    for name, recipe in recipes.PRESETS.items():
        assert recipes.get(name) is recipe


def test_get_returns_a_recipe_as_it_is():
    for recipe in EXAMPLES:
        assert recipes.get(recipe) is recipe


@pytest.mark.parametrize(
    ("identifier", "error", "said"),
    [
        ("Delayed", ValueError, "'Delayed'"),
        ("", ValueError, "''"),
        (None, TypeError, "None"),
        (1, TypeError, "1"),
        (DelayedScaling, TypeError, "DelayedScaling"),
    ],
)
def test_get_of_anything_else(identifier, error, said):
    with pytest.raises(error) as caught:
        recipes.get(identifier)
    message = str(caught.value)
    assert message.startswith("`recipe` must be ")
    assert "delayed_e4m3" in message
    assert said in message.split("Received: ")[1]


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({}, TypeError),
        ({"class_name": "Recipe", "config": {}}, ValueError),
        ({"class_name": "dict", "config": {}}, ValueError),
        ({"class_name": None, "config": {}}, TypeError),
        ({"class_name": "CurrentScaling"}, TypeError),
        ({"class_name": "CurrentScaling", "config": 1}, TypeError),
        ({"class_name": "CurrentScaling", "config": {"x": 1}}, ValueError),
    ],
)
def test_get_of_a_wrong_config(config, error):
    with pytest.raises(error):
        recipes.get(config)
