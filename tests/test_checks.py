"""tfmp._support.checks: what passes, and what the errors say."""

import math
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from tfmp._support import checks

ALLOWED = ("red", "green", "blue")


def raised(error, function, *args):
    """Returns the message of an error that names `color`."""
    with pytest.raises(error) as caught:
        function("color", *args)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith("`color` must be ")
    assert "Received: " in message
    return message


def test_raised_can_fail():
    def wrong(name):
        raise ValueError("`size` must be 1. Received: 2")

    with pytest.raises(AssertionError):
        raised(ValueError, wrong)
    with pytest.raises(ValueError):
        raised(TypeError, wrong)


@pytest.mark.parametrize("allowed", [ALLOWED, list(ALLOWED), set(ALLOWED)])
def test_choice(allowed):
    for value in ALLOWED:
        assert checks.choice("color", value, allowed) == value


@pytest.mark.parametrize("value", ["", "Red", "red ", "re"])
def test_choice_of_another(value):
    message = raised(ValueError, checks.choice, value, ALLOWED)
    assert f"one of {ALLOWED}" in message
    assert message.endswith(f"Received: {value!r}")


@pytest.mark.parametrize("value", [None, 1, ["red"], ("red",), b"red"])
def test_choice_of_another_type(value):
    message = raised(TypeError, checks.choice, value, ALLOWED)
    assert str(ALLOWED) in message
    assert message.endswith(f"Received: {value!r}")


@pytest.mark.parametrize("value", [-2, 0, 3])
def test_integer(value):
    assert checks.integer("color", value, -2, 3) == value
    assert checks.integer("color", value + 2, 0) == value + 2


@pytest.mark.parametrize("value", [-3, 4, 10**30])
def test_integer_out_of_range(value):
    message = raised(ValueError, checks.integer, value, -2, 3)
    assert message == f"`color` must be from -2 to 3. Received: {value!r}"


def test_integer_below_an_open_range():
    message = raised(ValueError, checks.integer, 0, 1)
    assert message == "`color` must be 1 or more. Received: 0"


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.int64(1)])
def test_integer_of_another_type(value):
    message = raised(TypeError, checks.integer, value, 0, 3)
    assert message == f"`color` must be an integer. Received: {value!r}"


@pytest.mark.parametrize("value", [0, 1, 0.0, 0.5, 1.0, np.float64(0.5)])
def test_number(value):
    result = checks.number("color", value, 0.0, 1.0)
    assert result == value
    assert type(result) is float


@pytest.mark.parametrize(
    "value",
    [-1, 2, -5e-324, math.nextafter(1.0, 2.0), math.inf, -math.inf, math.nan],
)
def test_number_out_of_range(value):
    message = raised(ValueError, checks.number, value, 0.0, 1.0)
    assert message == f"`color` must be from 0.0 to 1.0. Received: {value!r}"


@pytest.mark.parametrize("value", [False, "0.5", None, 1j, [0.5]])
def test_number_of_another_type(value):
    message = raised(TypeError, checks.number, value, 0.0, 1.0)
    assert message == f"`color` must be a number. Received: {value!r}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((), ()),
        ([], ()),
        (("blue", "red"), ("red", "blue")),
        (["green", "green"], ("green",)),
        (["blue", "green", "red"], ALLOWED),
    ],
)
def test_names(value, expected):
    assert checks.names("color", value, ALLOWED) == expected


@pytest.mark.parametrize("value", ["red", None, {"red"}, {"red": 1}, 1])
def test_names_of_another_type(value):
    message = raised(TypeError, checks.names, value, ALLOWED)
    assert str(ALLOWED) in message
    assert message.endswith(f"Received: {value!r}")


def test_names_holds_every_item_to_the_allowed_ones():
    message = raised(ValueError, checks.names, ("red", "pink"), ALLOWED)
    assert message.endswith("Received: 'pink'")
    message = raised(TypeError, checks.names, ("red", 1), ALLOWED)
    assert message.endswith("Received: 1")


def test_instance():
    assert checks.instance("color", "red", str, "a string") == "red"
    assert checks.instance("color", None, str | None, "a string") is None
    assert "a string" in raised(TypeError, checks.instance, 1, str, "a string")


def test_sequence():
    said = "a list of strings"
    assert checks.sequence("color", ("red",), str, said) == ["red"]
    for value in ("red", {"red": 1}, ["red", 1], None, np.array(["red"])):
        assert said in raised(TypeError, checks.sequence, value, str, said)


def test_shape():
    for value in ([None, 0, 3], (None, np.int64(0), 3)):
        assert checks.shape("color", value) == (None, 0, 3)
    assert checks.shape("color", tf.TensorShape([None, 3])) == (None, 3)
    for value in ("12", None, 3, {1: 2}, [1.0], tf.TensorShape(None)):
        raised(TypeError, checks.shape, value)
    for value in ((), (3,), (-1, 3)):
        raised(ValueError, checks.shape, value, 2)


def test_path():
    for value in ("a/b", pathlib.Path("a/b")):
        assert checks.path("color", value) == pathlib.Path("a/b")
    for value in (b"a", None, 1):
        raised(TypeError, checks.path, value)
    for value in ("", "a\0b", "\ud800"):
        raised(ValueError, checks.path, value)


def test_fields():
    record = types.SimpleNamespace(color="red", size=1)
    checks.fields(record, color=str, size=int | None)
    with pytest.raises(TypeError, match="`size` must be of type str"):
        checks.fields(record, color=str, size=str)


def test_numbers_beyond_every_float():
    message = raised(ValueError, checks.number, 10**400, 0, math.inf)
    assert "from 0 to inf" in message


def test_a_remote_path_is_not_a_local_folder():
    with pytest.raises(ValueError, match=r"`folder` must be a local path"):
        checks.path("folder", "gs://bucket/run")
