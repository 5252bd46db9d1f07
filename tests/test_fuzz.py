"""Bad use of every public name: what `fuzz.py` does, with few tries."""

import time
import warnings

import fuzz
import fuzz_tries
import keras
import numpy as np
import pytest
from fuzz_rows import CHECKS, COMPILES, COMPUTES, TRACES, model, trained
from fuzz_table import TABLE, missing, public
from fuzz_tries import ACCEPTED, FINDING, Entry, attempt, run

import tfmp

TRIES = {CHECKS: 30, COMPUTES: 10, TRACES: 3, COMPILES: 1, COMPILES / 10: 1}


@pytest.fixture(autouse=True)
def folder():
    with fuzz.in_folder():
        yield


def test_every_public_name_has_a_row():
    assert missing(TABLE, public()) == []


def test_missing_can_fail():
    def planted(x, y=1):
        pass

    every = {"a": planted, "b": planted}
    rows = {"a, again": Entry(planted, lambda: {"x": 1})}
    assert missing(rows, every) == ["b", "a(y)", "b(x, y)"]


@pytest.mark.parametrize("name", TABLE)
def test_bad_use(name):
    entry = TABLE[name]
    assert attempt(entry, {}) == (ACCEPTED, "")
    tally = run(entry, TRIES[entry.weight])
    assert tally.findings == []
    assert tally.tries == tally.counts.total() > 0


def test_bad_use_is_rejected():
    """Not by accident of a call that rejects nothing, or all alike."""
    counts = run(TABLE["recipes.DelayedScaling"], 300).counts
    assert min(counts[ACCEPTED], counts["ValueError"], counts["TypeError"]) > 0


def raising(error):
    def planted(**given):
        raise error

    return planted


NAMED = "`size` must be 1. Received: 2"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError(NAMED), "ValueError"),
        (TypeError(NAMED), "TypeError"),
        (ValueError("size must be 1. Received: 2"), FINDING),
        (ValueError("`width` must be 1. Received: 2"), FINDING),
        (TypeError("`size` must be 1."), FINDING),
        (AttributeError(NAMED), FINDING),
        (RecursionError(NAMED), FINDING),
        (UnicodeEncodeError("ascii", NAMED, 0, 1, NAMED), FINDING),
    ],
)
def test_the_rule_can_fail(error, outcome):
    entry = Entry(raising(error), lambda: {"size": 1})
    tally = run(entry, 5)
    assert tally.counts == {outcome: 5}
    assert bool(tally.findings) == (outcome == FINDING)


def test_a_key_of_a_dictionary_is_a_name():
    entry = Entry(raising(ValueError(NAMED)), lambda: {"config": {"size": 2}})
    assert attempt(entry, {}) == ("ValueError", "")


def test_what_keras_raises_too():
    bad, worse = raising(KeyError("a")), raising(IndexError("a"))
    for stock, outcome in ((bad, "as Keras"), (worse, FINDING)):
        entry = Entry(bad, lambda: {"size": 1}, stock=stock)
        assert attempt(entry, {})[0] == outcome


def test_what_a_docstring_says():
    missing_file = raising(FileNotFoundError())
    entry = Entry(missing_file, lambda: {"size": 1}, raises=(OSError,))
    assert attempt(entry, {}) == ("FileNotFoundError", "")


def test_warnings_are_findings():
    def planted(size):
        warnings.warn("overflow in cast", RuntimeWarning, stacklevel=1)

    outcome, text = attempt(Entry(planted, lambda: {"size": 1}), {})
    assert outcome == FINDING and "overflow in cast" in text


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("/home/me/tfmp/tests/test_fuzz.py", True),
        ("/home/me/tfmp/lib/numpy/core.py", True),
        (tfmp.__file__, False),
        (tfmp.layers.__file__, False),
    ],
)
def test_warnings_of_the_library_are_known_by_its_files(file, found):
    """Not by a folder's name, which a clone has too."""

    def planted(size):
        warnings.warn_explicit("overflow in cast", RuntimeWarning, file, 1)

    outcome, _ = attempt(Entry(planted, lambda: {"size": 1}), {})
    assert outcome == (FINDING if found else ACCEPTED)


def test_a_hang_is_a_finding(monkeypatch):
    monkeypatch.setattr(fuzz_tries, "SECONDS", 0.1)
    entry = Entry(lambda size: time.sleep(5), lambda: {"size": 1})
    outcome, text = attempt(entry, {})
    assert outcome == FINDING and "Hang" in text


def test_what_a_call_sets_is_put_back():
    before = keras.config.dtype_policy(), keras.Layer.__dict__["__new__"]
    bad = {"policy": lambda: "mixed_float8", "convert": lambda: True}
    assert attempt(TABLE["set_global_policy"], bad) == (ACCEPTED, "")
    assert before == (
        keras.config.dtype_policy(),
        keras.Layer.__dict__["__new__"],
    )


def test_runs_are_repeatable():
    entry = TABLE["cost_model.Product"]
    assert run(entry, 50, 3).counts == run(entry, 50, 3).counts


@pytest.mark.parametrize("shape", [(4, 15), (4, 16, 3)])
def test_fit_on_wrong_shapes(shape):
    net = model(tfmp.layers.Dense(4, dtype="mixed_float8"))
    net.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"incompatible|expected shape"):
        net.fit(np.ones(shape), np.ones([4, 4]), verbose=0)


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_a_layer_casts_what_keras_casts(dtype):
    layer = tfmp.layers.Dense(4, dtype="mixed_float8")
    x = np.ones([4, 16])
    np.testing.assert_array_equal(layer(x.astype(dtype)), layer(x))


def test_a_layer_refuses_complex_numbers():
    layer = tfmp.layers.Dense(4, dtype="mixed_float8")
    with pytest.raises(TypeError, match="`inputs` must be of dtype"):
        layer(np.ones([4, 16], "complex64"))


def test_fit_with_the_optimizer_of_another_model():
    optimizer = tfmp.optimizers.LossScaleOptimizer("sgd")
    optimizer.build(trained()["variables"])
    net = model(tfmp.layers.Dense(4, dtype="mixed_float8"))
    net.compile(optimizer, "mse", jit_compile=False)
    with pytest.raises(ValueError, match="`trainable_variables` must be"):
        net.fit(np.ones([4, 16]), np.ones([4, 4]), verbose=0)
