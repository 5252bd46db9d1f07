"""Export to safetensors: what a server reads, and what comes back."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import safetensors
import tensorflow as tf

import tfmp
from tfmp.checkpoints import compressed_tensors, safetensors_files

FLOAT8 = tf.dtypes.experimental.float8_e4m3fn.as_numpy_dtype


def net(policy=None):
    keras.utils.set_random_seed(0)
    start = keras.Input([6, 16])
    x = keras.layers.Dense(32, "relu", name="up")(start)
    x = keras.layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    model = keras.Model(
        start, keras.layers.Dense(4, name="head")(x), name="net"
    )
    if policy is not None:
        tfmp.convert(model, policy, filter="all")
    return model


def in_float8(trained=True):
    model = net(tfmp.PrecisionMap({"head": "mixed_bfloat16"}, "mixed_float8"))
    if trained:
        for layer in model._flatten_layers():
            if getattr(layer, "float8", None) is not None:
                top = float(np.abs(layer.kernel).max())
                layer.float8.assume([5.0, 2 * top, 0.1])
    return model


def x():
    random = np.random.default_rng(0)
    return random.normal(size=[5, 6, 16]).astype("float32")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model that has trained, and its folder as a server finds it."""
    model = in_float8()
    folder = tmp_path_factory.mktemp("served") / "net"
    report = tfmp.export(model, folder, "safetensors", inputs=x())
    return model, folder, report


def header(folder):
    """What the package safetensors reads: dtype, shape and bytes by name."""
    content = (folder / "model.safetensors").read_bytes()
    return dict(safetensors.deserialize(content))


def test_the_weights_are_those_that_the_model_multiplies(written):
    model, folder, _ = written
    read, layer = header(folder), model.get_layer("up")
    assert read["up.weight"]["dtype"] == "F8_E4M3"
    assert read["up.weight"]["shape"] == [32, 16]
    codes = np.frombuffer(bytes(read["up.weight"]["data"]), FLOAT8)
    scale = np.frombuffer(bytes(read["up.weight_scale"]["data"]), "float32")
    top = 2 * float(np.abs(layer.kernel).max())
    factor = float(tfmp.ops.compute_scale(top, "E4M3"))
    assert scale.tolist() == [1 / factor]
    expected = tfmp.ops.quantize(layer.kernel, factor, "E4M3").numpy().T
    np.testing.assert_array_equal(codes.reshape(32, 16), expected)
    seen = np.frombuffer(bytes(read["up.input_scale"]["data"]), "float32")
    assert seen.tolist() == [1 / float(tfmp.ops.compute_scale(5.0, "E4M3"))]


def test_projections_of_attention_are_linear_layers(written):
    _, folder, _ = written
    read = header(folder)
    assert read["attention.query.weight"]["shape"] == [16, 32]
    assert read["attention.query.bias"]["shape"] == [16]
    assert read["attention.attention_output.weight"]["shape"] == [32, 16]


def test_the_rest_is_as_it_is(written):
    model, folder, _ = written
    read = header(folder)
    assert read["norm.gamma"]["dtype"] == "F32"
    assert "head.weight_scale" not in read
    head = np.frombuffer(bytes(read["head.weight"]["data"]), "float32")
    expected = model.get_layer("head").kernel.numpy().T
    np.testing.assert_array_equal(head.reshape(expected.shape), expected)


def test_the_config_says_how(written):
    _, folder, _ = written
    config = json.loads((folder / "config.json").read_text())
    found = config["quantization_config"]
    assert found["quant_method"] == "compressed-tensors"
    assert found["format"] == "float-quantized"
    assert found["ignore"] == ["head"]
    # What compressed_tensors.quantization.preset_name_to_scheme("FP8",
    # ["Linear"]) gives in 0.20.1, but for the observer.
    low = {"num_bits": 8, "type": "float", "symmetric": True}
    by_tensor = {**low, "strategy": "tensor", "dynamic": False}
    [group] = found["config_groups"].values()
    assert group == {
        **{"targets": ["Linear"], "weights": by_tensor},
        **{"input_activations": by_tensor},
    }


def test_the_report_says_what_became_of_each_layer(written):
    report = written[2]
    rows = {row.path: row.exported for row in report.layers}
    assert rows["net/up"] == "weight in E4M3, one scale"
    assert rows["net/head"] == rows["net/norm"] == "float32"
    assert "training has seen" in report.notes[0]
    assert report.sqnr > report.min_sqnr


def test_it_comes_back_into_a_model_in_any_precision(written):
    model, folder, _ = written
    other = net()
    tfmp.checkpoints.load_safetensors(other, folder)
    layer, kernel = model.get_layer("up"), other.get_layer("up").kernel
    scale = float(
        tfmp.ops.compute_scale(2 * float(np.abs(layer.kernel).max()), "E4M3")
    )
    low = tfmp.ops.quantize(layer.kernel, scale, "E4M3")
    expected = tfmp.ops.dequantize(low, scale, "float32")
    np.testing.assert_array_equal(kernel, expected)
    for name in ("norm", "head"):
        for a, b in zip(
            model.get_layer(name).weights,
            other.get_layer(name).weights,
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_a_scale_for_each_output(tmp_path):
    model = net()
    report = tfmp.export(
        model, tmp_path / "a", "safetensors", kernels="float8_dynamic"
    )
    read = header(tmp_path / "a")
    assert read["up.weight_scale"]["shape"] == [32, 1]
    assert "up.input_scale" not in read
    config = json.loads((tmp_path / "a/config.json").read_text())
    [group] = config["quantization_config"]["config_groups"].values()
    assert group["weights"]["strategy"] == "channel"
    assert group["input_activations"] == {
        **{"num_bits": 8, "type": "float", "symmetric": True},
        **{"strategy": "token", "dynamic": True},
    }
    # No layer is in FP8: all that can are quantized, and not to worse than
    # half a unit of the last of E4M3's places.
    assert all("each output" in r.exported for r in report.layers[:1])
    before = model.get_layer("up").kernel.numpy()
    tfmp.checkpoints.load_safetensors(model, tmp_path / "a")
    after = model.get_layer("up").kernel.numpy()
    tops = np.abs(before).max(axis=0)
    assert np.all(np.abs(after - before) <= tops * 2**-4)
    np.testing.assert_allclose(np.abs(after).max(axis=0), tops, rtol=1e-6)


def test_untrained_inputs_have_no_scale(tmp_path):
    model = in_float8(trained=False)
    report = tfmp.export(model, tmp_path / "a", "safetensors")
    assert "no training has seen" in report.notes[0]
    assert "up.input_scale" not in header(tmp_path / "a")


def test_the_model_is_as_it_was(tmp_path):
    model = in_float8()
    before, outputs = model.get_weights(), model(x())
    tfmp.export(model, tmp_path / "a", "safetensors")
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(outputs, model(x()))


def test_an_older_folder_is_replaced_and_no_other(written, tmp_path):
    model = written[0]
    for _ in range(2):
        tfmp.export(model, tmp_path / "a", "safetensors")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        tfmp.export(model, tmp_path / "b", "safetensors")


def test_every_dtype_comes_back(tmp_path):
    arrays = {
        name: np.arange(6).reshape(2, 3).astype(dtype)
        for name, dtype in safetensors_files.NUMPY.items()
    }
    arrays |= {"scalar": np.float32(3), "none": np.zeros([0, 2], "float32")}
    path = tmp_path / "a.safetensors"
    safetensors_files.write(path, arrays)
    read = safetensors_files.read(path)
    for name, array in arrays.items():
        assert read[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(
            read[name].astype("float64"), np.asarray(array).astype("float64")
        )
    theirs = dict(safetensors.deserialize(path.read_bytes()))
    assert {n: t["dtype"] for n, t in theirs.items() if n in arrays} == {
        **{name: name for name in safetensors_files.NUMPY},
        **{"scalar": "F32", "none": "F32"},
    }


def test_what_the_package_writes_is_read(tmp_path):
    from safetensors.numpy import save_file

    arrays = {"a": np.arange(3.0), "b": np.ones([2, 2], "int8")}
    save_file(arrays, tmp_path / "a.safetensors")
    read = safetensors_files.read(tmp_path / "a.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("content", [b"", b"\x08" + b"\0" * 7 + b"no json "])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="cut short"):
        tfmp.checkpoints.load_safetensors(net(), tmp_path)


def test_a_file_cut_short_changes_nothing(written, tmp_path):
    content = (written[1] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-4])
    model = net()
    before = model.get_weights()
    with pytest.raises(ValueError, match="cut short"):
        tfmp.checkpoints.load_safetensors(model, tmp_path)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_model_is_refused(written):
    _, folder, _ = written
    dense = keras.layers.Dense
    other = keras.Sequential([keras.Input([6, 16]), dense(32, name="up")])
    with pytest.raises(ValueError, match=r"attention\.key"):
        tfmp.checkpoints.load_safetensors(other, folder)
    wider = net()
    names = compressed_tensors.variables_by_name(wider)
    assert "attention.query.kernel" in names


def test_a_model_without_dense_layers_is_refused(tmp_path):
    layer = keras.layers.Conv1D(4, 3)
    model = keras.Sequential([keras.Input([8, 4]), layer])
    with pytest.raises(ValueError, match="Dense"):
        tfmp.export(model, tmp_path / "a", "safetensors")
    with pytest.raises(ValueError, match="`kernels`"):
        tfmp.export(net(), tmp_path / "a", "safetensors", kernels="float")


def test_a_frozen_model_is_refused_and_a_thawed_one_has_its_bytes(
    written, tmp_path
):
    model = in_float8()
    tfmp.freeze(model)
    with pytest.raises(ValueError, match=r"tfmp\.thaw"):
        tfmp.export(model, tmp_path / "a", "safetensors")
    with pytest.raises(ValueError, match="frozen"):
        tfmp.checkpoints.load_safetensors(model, written[1])
    tfmp.thaw(model)
    tfmp.export(model, tmp_path / "a", "safetensors")
    before, after = header(written[1]), header(tmp_path / "a")
    for name in ("up.weight", "up.weight_scale", "attention.key.weight"):
        assert bytes(before[name]["data"]) == bytes(after[name]["data"])


def test_one_output_has_a_scale_of_its_channel(tmp_path):
    layers = [keras.layers.Dense(1, name="one")]
    model = keras.Sequential([keras.Input([16]), *layers])
    tfmp.export(model, tmp_path / "a", "safetensors", kernels="float8_dynamic")
    assert header(tmp_path / "a")["one.weight_scale"]["shape"] == [1, 1]


def unit_scaled():
    """A model whose products have factors, in FP8 at scale 1."""
    dense = tfmp.unit_scaling.Dense
    policy = tfmp.Policy("mixed_float8", "static")
    layers = [dense(16, dtype=policy), dense(16, readout=True, dtype=policy)]
    return keras.Sequential([keras.Input([16]), *layers])


def test_unit_scaling_is_refused_where_its_factors_would_be_lost(tmp_path):
    model = unit_scaled()
    with pytest.raises(ValueError, match="unit_scaling"):
        tfmp.export(model, tmp_path / "a", "safetensors")
    with pytest.raises(ValueError, match="unit scaling"):
        tfmp.freeze(model)
    values = np.ones([2, 16], "float32")
    before = model.predict(values, verbose=0)
    plain = tfmp.layers.Dense(16, dtype="mixed_float8")
    both = keras.Sequential([keras.Input([16]), *model.layers, plain])
    report = tfmp.freeze(both)
    assert "factors" in report.rows[0].kernel
    np.testing.assert_array_equal(model.predict(values, verbose=0), before)
    assert np.all(np.isfinite(both.predict(values, verbose=0)))
