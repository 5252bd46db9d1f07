"""The sweep over all models: what it tries, and what its table says."""

from __future__ import annotations

import json

import keras
import keras_hub
import model_sweep
import numpy as np
import pytest
import sweep_checks
import sweep_subjects
import sweep_table
from sweep_checks import PLAIN, Way

LOW = Way("tfmp", "float8")
SUBJECTS = sweep_subjects.subjects()


def kinds(of):
    """Returns the public classes of keras-hub that are of one, but itself."""
    models = keras_hub.models
    found = {name: getattr(models, name) for name in dir(models)}
    classes = {k: v for k, v in found.items() if isinstance(v, type)}
    return {k for k, v in classes.items() if issubclass(v, of) and v is not of}


def test_every_model_of_keras_hub_is_there():
    names = {each.name for each in SUBJECTS if each.library == "keras-hub"}
    abstract = {"FeaturePyramidBackbone"}
    assert kinds(keras_hub.models.Backbone) - abstract <= names
    tasks = kinds(keras_hub.models.Task)
    made = {x for x in tasks if getattr(keras_hub.models, x).backbone_cls}
    assert made <= names
    assert len(SUBJECTS) == len({(x.library, x.name) for x in SUBJECTS})


def test_a_model_without_a_configuration_is_not_tried(monkeypatch):
    fewer = dict(sweep_subjects.BACKBONES)
    del fewer["BertBackbone"]
    monkeypatch.setattr(sweep_subjects, "BACKBONES", fewer)
    notes = {each.name: each.note for each in sweep_subjects.subjects()}
    assert "not tried" in notes["BertBackbone"]
    assert "not tried" in notes["BertMaskedLM"]
    assert notes["GPT2CausalLM"] == ""
    assert notes["ESM2Backbone"] == "another name: ESMBackbone"


def test_it_does_without_keras_rs(monkeypatch):
    monkeypatch.setattr(sweep_subjects, "keras_rs", None)
    found = [x for x in sweep_subjects.subjects() if x.library == "keras-rs"]
    assert [each.note for each in found] == ["not tried: not installed"]


def test_a_model_is_made_twice_alike():
    subject = next(x for x in SUBJECTS if x.name == "BertMaskedLM")
    one, other = (sweep_subjects.model_of(subject) for _ in range(2))
    x = sweep_subjects.inputs_of(subject, one)
    np.testing.assert_array_equal(one(x), other(x))
    assert x["padding_mask"].min() == 0 < x["padding_mask"].max()
    loss, y = sweep_subjects.labels_of(subject, one(x))
    assert isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    assert y.shape == (2, 2)


@pytest.mark.parametrize(
    ("failing", "fault"),
    [
        ([LOW], "tfmp"),
        ([LOW, Way("Keras", "bfloat16")], "Keras, bfloat16"),
        ([LOW, PLAIN], "Keras, float32"),
    ],
)
def test_whose_fault_it_is(failing, fault, tmp_path):
    def do(way):
        if way in failing:
            raise ValueError("Exception encountered when calling X.\n\nno")

    trial = sweep_checks.Trial(SUBJECTS[0], str(tmp_path / "cells.json"))
    assert not trial.check("trains", do, LOW)
    cell = json.loads((tmp_path / "cells.json").read_text())["trains"]
    assert (cell["error"], cell["fault"]) == ("ValueError: no", fault)


def test_numbers_that_are_not_finite_are_an_error(tmp_path, monkeypatch):
    trial = sweep_checks.Trial(SUBJECTS[0], str(tmp_path / "cells.json"))
    trial.expected = np.ones(2), np.ones(2)
    monkeypatch.setattr(trial, "model", lambda way: None)
    found = np.array([1.0, 0.0]), np.array([1.0, 2.0])
    monkeypatch.setattr(trial, "measure", lambda model: found)
    assert trial.values(PLAIN) == "3 / 3"
    found[0][1] = np.nan
    with pytest.raises(ArithmeticError):
        trial.values(PLAIN)


def test_the_table_says_what_fails_and_whose_it_is():
    cells = {
        "converts": {"found": "3 layers, 50%"},
        "graph, float8": {"error": "E: a|b", "fault": "tfmp"},
        "graph, float16": {"error": "E: c", "fault": "Keras, float16"},
        "saves and loads": {"found": "same bits"},
        "LoRA": {"found": None},
        "exports": {"error": "exit code -6", "fault": "not known"},
    }
    rows = {"a: One": {"cells": cells}, "a: Two": {"note": "not tried: x"}}
    facts = {"date": "d", "tfmp": "t", "keras": "k", "tensorflow": "f"}
    text = sweep_table.markdown({**facts, "rows": rows})
    (line,) = [x for x in text.splitlines() if x.startswith("| a: One")]
    found = [cell.strip() for cell in line.split("|")]
    assert found[2] == "3 layers, 50%" and "✓" in found
    marks = [cell for cell in found if cell.startswith("✗")]
    assert marks == ["✗ tfmp", "✗ Keras", "✗ not known"]
    assert "- a: One: graph, float8: E: a/b (tfmp)" in text
    assert "- not tried: x: a: Two" in text


def test_the_kept_table_is_that_of_the_kept_results():
    kept = json.loads(model_sweep.RESULT.read_text())
    assert model_sweep.TABLE.read_text() == sweep_table.markdown(kept)
    known = {f"{each.library}: {each.name}" for each in SUBJECTS}
    assert kept["rows"].keys() == known
