"""What `tfmp.summary` shows of a model."""

from __future__ import annotations

import keras
import models
import pytest

import tfmp


def lines_of(model, **arguments):
    found = []
    tfmp.summary(model, print_fn=found.append, **arguments)
    return found


def row(lines, name):
    """Returns the line of a layer, its spaces made one."""
    found = [line for line in lines if line.split(" (")[0].strip() == name]
    assert len(found) == 1, lines
    return " ".join(found[0].split())


@pytest.fixture(scope="module")
def net():
    layers = [
        keras.Input([64]),
        keras.layers.Dense(32, name="wide"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dense(16, name="narrow"),
        keras.layers.Dropout(0.5, name="n"),  # a name that others begin with
    ]
    model = keras.Sequential(layers, name="net")
    tfmp.convert(model, tfmp.Policy("mixed_float8", "current"), skip=("last",))
    return model


def test_a_row_has_all_of_a_layer(net):
    lines = lines_of(net, batch_size=8)
    assert lines[0] == 'Model: "net" (Sequential)'
    assert row(lines, "wide") == (
        "wide (Dense) (None, 32) 2,080 float8 current 8 x 64 x 32 3 of 3 32.8 k"
    )
    assert row(lines, "norm") == (
        "norm (BatchNormalization) (None, 32) 128 bfloat16"
    )
    assert row(lines, "narrow") == (
        "narrow (Dense) (None, 16) 528 bfloat16 8 x 32 x 16 0 of 3 8.19 k"
    )


def test_a_layer_is_not_taken_for_one_whose_name_goes_on(net):
    assert row(lines_of(net), "n") == "n (Dropout) (None, 16) 0 bfloat16"


def test_the_totals(net):
    assert lines_of(net, batch_size=8)[-4:] == [
        "Parameters: 2,736 (10.69 KiB), of which 2,672 are trained",
        "FLOPs: 41 k forward, 123 k a training step",
        "FP8: 3 of 6 products, 80.0% of the counted FLOPs of a training step",
        "Counted: all products of one symbolic call on float32 (8, 64) "
        "(batch 8, length 512 where the model leaves them open)",
    ]


def test_parameters_are_those_of_keras(net):
    tfmp.revert(stock := models.sequential())
    counted, said = stock.count_params(), lines_of(stock)[-4]
    assert f" {counted:,} (" in said
    tfmp.convert(stock)
    assert any("/float8/" in v.path for v in stock.variables)
    assert stock.count_params() == counted and lines_of(stock)[-4] == said


def test_a_layer_sums_up_what_is_in_it():
    model = models.subclassed()
    tfmp.convert(model)
    lines = lines_of(model)
    first = row(lines, "first")
    assert "bfloat16, float8" in first and "8 products 18 of 24" in first
    assert len(lines) == 1 + 1 + 1 + 4 + 1 + 4
    every = lines_of(model, expand_nested=True)
    assert sum(line.startswith("  attention (") for line in every) == 2
    assert sum(line.startswith("    query (") for line in every) == 2
    assert every[-3:] == lines[-3:]


def test_calls_count():
    lines = lines_of(models.functional())
    assert "2 of 192 x 16 x 16 0 of 6" in row(lines, "shared")
    assert "(InputLayer)" in lines[3]
    inner = row(lines, "inner")
    assert inner.startswith("inner (Sequential) (None, 6, 16) 272 float32")


def test_a_model_that_is_not_built():
    lines = lines_of(models.subclassed(built=False))
    assert "not built" in row(lines, "conv") and "?" in row(lines, "conv")
    assert lines[-1] == "Layers that are not built count for nothing."
    single = lines_of(keras.layers.Dense(2, name="one"))
    assert "not built" in row(single, "one")


def test_bytes_are_those_of_the_variables():
    model = keras.Sequential(
        [keras.Input([7]), keras.layers.Dense(1, dtype="bfloat16")]
    )
    assert "Parameters: 8 (16 B)" in lines_of(model)[-4]


def test_names_are_shortened_to_a_length(net):
    width = max(map(len, lines_of(net)[1:-3]))
    lines = lines_of(net, line_length=width - 5)
    assert max(map(len, lines[1:-3])) == width - 5
    assert "norm (BatchNormaliz…" in lines[4]


def test_it_prints_and_returns_nothing(net, capsys):
    assert tfmp.summary(net) is None
    assert capsys.readouterr().out.splitlines() == lines_of(net)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"model": 3}, "model"),
        ({"line_length": 10}, "line_length"),
        ({"line_length": "80"}, "line_length"),
        ({"print_fn": 3}, "print_fn"),
        ({"expand_nested": 1}, "expand_nested"),
        ({"batch_size": 0}, "batch_size"),
        ({"length": 1.0}, "length"),
    ],
)
def test_wrong_arguments(net, arguments, name):
    with pytest.raises((TypeError, ValueError), match=rf"`{name}` must be"):
        tfmp.summary(**{"model": net, **arguments})
