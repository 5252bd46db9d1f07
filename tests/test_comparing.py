"""`compare`: what a user sees of a model in several precisions."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp._command_line import main
from tfmp._comparing import measuring
from tfmp._comparing.comparison import Latency

POLICIES = ("mixed_bfloat16", "mixed_float8")


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    x = random.normal(size=[48, 32]).astype("float32")
    return x, random.integers(16, size=48)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(32, "relu")
    head = keras.layers.Dense(16, dtype="float32", name="head")
    made = keras.Sequential([keras.Input([32]), hidden, head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile("adam", loss, metrics=["accuracy"])
    return made


@pytest.fixture(scope="module")
def found(model, data):
    return tfmp.compare(model, data, policies=POLICIES, runs=3)


def test_float32_comes_first_and_is_the_model(found, model, data):
    names = [row.name for row in found.models]
    assert names == ["float32", *POLICIES]
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    assert found["float32"].metrics == pytest.approx(expected)
    assert found["float32"].sqnr == math.inf


def test_others_are_as_convert_makes_them(found, model, data):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    tfmp.convert(copy, tfmp.PrecisionMap({"head": "float32"}, "mixed_float8"))
    expected = tfmp.ops.sqnr(model(data[0]), copy(data[0]))
    row = found["mixed_float8"]
    assert row.sqnr == pytest.approx(float(expected), abs=0.5)
    # Two thirds of the FLOPs: the last layer was made in float32.
    assert row.float8_share == pytest.approx(2 / 3)
    assert found["mixed_bfloat16"].float8_share == 0
    assert 15 < row.sqnr < found["mixed_bfloat16"].sqnr < 100


def test_times_sizes_and_the_machine_are_said(found):
    weights = 4 * (32 * 32 + 32 + 32 * 16 + 16)
    for row in found.models:
        assert list(row.latency) == [1, 32]
        for timed in row.latency.values():
            assert 0 < timed.median <= timed.p95 < 10
        assert 0 <= row.weight_bytes - weights < 64  # and the state of FP8
    assert found.speedup("float32", 1) == 1
    text = str(found)
    assert "accuracy" in text and tf.__version__ in text
    if not tf.config.list_physical_devices("GPU"):
        assert "a GPU's are others" in text


def test_it_is_data_and_a_picture(found, tmp_path):
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["name"] for row in read["models"]] == ["float32", *POLICIES]
    assert read["models"][0]["sqnr"] is None
    assert read["models"][0]["latency"]["32"]["throughput"] > 0
    found.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_model_is_as_it_was(model, data):
    tfmp.convert(model, filter="all")
    try:
        before = model.predict(data[0], verbose=0)
        row = tfmp.compare(model, data, batch_sizes=[2], runs=1)["as it is"]
        assert row.float8_share > 0
        np.testing.assert_array_equal(model.predict(data[0], verbose=0), before)
        assert model.layers[0].compute_dtype == "bfloat16"
    finally:
        tfmp.revert(model)


def test_models_by_name_and_a_dataset_of_inputs(data):
    dense = keras.layers.Dense
    sizes = {"narrow": 8, "wide": 64}
    models = {
        name: keras.Sequential([keras.Input([32]), dense(width), dense(4)])
        for name, width in sizes.items()
    }
    batches = tf.data.Dataset.from_tensor_slices(data[0]).batch(20)
    found = tfmp.compare(models, batches, batch_sizes=(3,), runs=1)
    assert found["wide"].weight_bytes > 4 * found["narrow"].weight_bytes
    assert found["wide"].metrics == {}
    assert any("data" in note for note in found.notes)


def test_several_inputs_and_outputs():
    first, second = keras.Input([8], name="a"), keras.Input([8], name="b")
    layer = keras.layers.Dense(16)
    made = keras.Model({"a": first, "b": second}, [layer(first), layer(second)])
    x = {"a": np.ones([3, 8]), "b": np.zeros([3, 8])}
    found = tfmp.compare(made, x, policies=["mixed_bfloat16"], runs=1)
    assert found["mixed_bfloat16"].sqnr > 40


def test_a_batch_begins_again_where_samples_end():
    found = measuring.first(np.arange(3), 7)
    assert found.numpy().tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_calls_take_turns():
    order = []
    calls = {n: lambda x, n=n: order.append(n) or x for n in "ab"}
    found = measuring.latencies(calls, {1: tf.ones([1])}, 2)
    assert "".join(order) == "ab" + "abab"
    assert isinstance(found["a"][1], Latency)


class Own(keras.Model):
    """Not registered, so that Keras can save it and not load it."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(x)


def own():
    made = Own()
    made(np.ones([2, 8]))
    return made


@pytest.mark.parametrize(
    ("models", "more", "error", "said"),
    [
        ("a", {}, TypeError, "`models`"),
        ({}, {}, TypeError, "`models`"),
        ({"a": 1}, {}, TypeError, "`models`"),
        (keras.Sequential([keras.layers.Dense(1)]), {}, ValueError, "built"),
        (own, {"policies": ["float32"]}, ValueError, "a dictionary of models"),
        (None, {"policies": "mixed_float8"}, TypeError, "`policies`"),
        (None, {"policies": ["mixed_float9"]}, ValueError, "mixed_float9"),
        (None, {"batch_sizes": [0]}, ValueError, "`batch_sizes`"),
        (None, {"batch_sizes": []}, ValueError, "`batch_sizes`"),
        (None, {"runs": 0}, ValueError, "`runs`"),
        (None, {"data": (1, 2, 3)}, ValueError, "`data`"),
        (None, {"data": np.zeros([0, 32])}, ValueError, "`data`"),
    ],
)
def test_what_cannot_be_compared(model, models, more, error, said):
    models = models() if models is own else models
    arguments = {"data": np.ones([2, 32]), **more}
    with pytest.raises(error, match=said):
        tfmp.compare(model if models is None else models, **arguments)


def test_policies_are_of_one_model(model):
    with pytest.raises(ValueError, match="`policies` must be None"):
        tfmp.compare({"a": model}, np.ones([2, 32]), policies=["float32"])


def test_a_name_that_is_not_there(found):
    with pytest.raises(KeyError, match="mixed_float8"):
        found["float16"]


def test_the_command(model, data, tmp_path, capsys):
    path, arrays = tmp_path / "a.keras", tmp_path / "a.npz"
    model.save(path)
    np.savez(arrays, x=data[0], y=data[1])
    options = [
        "--policies",
        "mixed_float8",
        "--runs",
        "1",
        "--batch-sizes",
        "4",
    ]
    picture = ["--picture", str(tmp_path / "a.png")]
    with_data = ["--data", str(arrays), "--json"]
    command = ["benchmark", str(path), *options]
    assert main([*command, *with_data, *picture]) == 0
    read = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in read["models"]] == [
        "float32",
        "mixed_float8",
    ]
    assert "accuracy" in read["models"][1]["metrics"]
    assert (tmp_path / "a.png").is_file()
    assert main(["benchmark", str(path), "--data", "none.npz"]) == 1
    assert "no file" in capsys.readouterr().err
    np.savez(arrays, z=data[0])
    assert main(["benchmark", str(path), "--data", str(arrays)]) == 1
    assert "array `x`" in capsys.readouterr().err


def test_policies_of_one_name_are_rows_of_their_own(model, data):
    policies = [tfmp.Policy("mixed_float8", r) for r in ("delayed", "current")]
    maps = [
        tfmp.PrecisionMap({"head": each}, "mixed_float8")
        for each in ("float32", "mixed_bfloat16")
    ]
    found = tfmp.compare(
        model, data[0], policies=[*policies, *maps], batch_sizes=[2], runs=1
    )
    names = [row.name for row in found.models]
    assert len(set(names)) == 5
    assert "DelayedScaling" in names[1] and "CurrentScaling" in names[2]


def test_a_nan_in_any_output_is_the_worst():
    good, bad = tf.ones([2]), tf.constant([1.0, np.nan])
    assert math.isnan(measuring.sqnr([good, good], [good, bad]))
    assert math.isnan(measuring.sqnr([good, good], [bad, good]))


def test_other_metrics_are_other_columns(data):
    models = {}
    for name, metrics in (("a", ["mae"]), ("b", None), ("c", ["mse"])):
        head = keras.layers.Dense(4)
        models[name] = keras.Sequential([keras.Input([32]), head])
        if metrics:
            models[name].compile(loss="mse", metrics=metrics)
    y = np.zeros([48, 4])
    found = tfmp.compare(models, (data[0], y), batch_sizes=[1], runs=1)
    head, _, second, *_ = str(found).splitlines()
    assert "mae" in head and "mse" in head
    assert second.split()[:4] == ["b", "-", "-", "-"]


def test_a_metric_of_several_numbers_is_their_mean(data):
    model = keras.Sequential([keras.Input([32]), keras.layers.Dense(4)])
    model.compile(loss="mse", metrics=[keras.metrics.F1Score()])
    y = np.eye(4)[np.arange(48) % 4]
    found = tfmp.compare({"a": model}, (data[0], y), batch_sizes=[1], runs=1)
    assert 0 <= found["a"].metrics["f1_score"] <= 1
