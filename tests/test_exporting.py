"""Exported models: run in their runtimes, and the model left as it was."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp._exporting import job, plain_model, runtimes, samples

FORMATS = ("saved_model", "litert", "onnx")
SUFFIX = {"saved_model": "", "litert": ".tflite", "onnx": ".onnx"}
FLOAT8 = {"dtype": "mixed_float8"}
E5M2_INPUTS = tfmp.recipes.DelayedScaling(fp8_format=("E5M2", "E4M3", "E4M3"))
PACKAGES = {
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "tf2onnx", "onnxruntime"),
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:In the future `np.object`:FutureWarning"
)
each_format = pytest.mark.parametrize("format", FORMATS)


def need(format):
    """Skips where a runtime is not installed."""
    for package in PACKAGES.get(format, ()):
        pytest.importorskip(package)


def dense():
    layers = [
        tfmp.layers.Dense(32, "relu", **FLOAT8),
        tfmp.layers.Dense(4, **FLOAT8),
    ]
    return keras.Sequential([keras.Input([16]), *layers])


def one(**options):
    layer = tfmp.layers.Dense(4, **options)
    return keras.Sequential([keras.Input([16]), layer])


def einsum_dense():
    layer = tfmp.layers.EinsumDense("abc,cd->abd", (6, 8), **FLOAT8)
    return keras.Sequential([keras.Input([6, 16]), layer])


def conv():
    layers = [
        tfmp.layers.Conv2D(16, 3, padding="same", **FLOAT8),
        tfmp.layers.Conv2D(32, 3, strides=2, **FLOAT8),
        keras.layers.GlobalAveragePooling2D(),
    ]
    return keras.Sequential([keras.Input([8, 8, 3]), *layers])


def attention():
    policy = tfmp.Policy(
        "mixed_float8", tfmp.recipes.DelayedScaling(attention=True)
    )
    inputs = keras.Input([6, 16])
    layer = tfmp.layers.MultiHeadAttention(2, 8, dtype=policy)
    return keras.Model(inputs, layer(inputs, inputs, use_causal_mask=True))


def converted():
    model = keras.Sequential(
        [
            keras.Input([12, 16]),
            keras.layers.Conv1D(16, 3, activation="relu"),
            keras.layers.LayerNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(32, "tanh"),
            keras.layers.Dense(4),
        ]
    )
    tfmp.convert(model, filter="all")
    return model


MODELS = {f.__name__: f for f in (dense, einsum_dense, conv, attention)}
MODELS["converted"] = converted
each_model = pytest.mark.parametrize("name", MODELS)
# Convolutions and attention in all formats, the other models in one or two.
ELSEWHERE = [
    *[("conv", format) for format in FORMATS],
    *[("attention", format) for format in FORMATS],
    *[("dense", "saved_model"), ("dense", "onnx")],
    *[("einsum_dense", "litert"), ("converted", "onnx")],
]


def batch(model, rows=3, seed=0):
    shape = (rows, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def outputs_of(model, x):
    return tf.cast(model(x, training=False), tf.float32).numpy()


def observed(name="dense"):
    """A model whose FP8 state is as after training: the kernels have moved."""
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    for layer in model._flatten_layers():
        if getattr(layer, "float8", None) is not None:
            now = np.abs(layer.kernel).max()
            layer.float8.assume([5.0, 2.5 * now, 0.1])
    return model


def trained():
    """A compiled model that has trained two steps."""
    keras.utils.set_random_seed(1)
    model = one(**FLOAT8)
    model.compile(
        tfmp.optimizers.LossScaleOptimizer("adam", initial_scale=1.0),
        "mse",
        run_eagerly=True,
    )
    x = batch(model, rows=8)
    model.fit(x, outputs_of(model, x) + 1, batch_size=4, verbose=0)
    return model


def run(format, path, x):
    """Runs an exported file, by other code than that of tfmp."""
    if format == "saved_model":
        loaded = tf.saved_model.load(str(path))
        return loaded.serve(x).numpy()
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        return session.run(None, {session.get_inputs()[0].name: x})[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def saved_weights(path):
    """Returns a SavedModel's variables by path; those of `model.variables`."""
    loaded = tf.saved_model.load(str(path))
    return {v.name.removesuffix(":0"): v.numpy() for v in loaded.variables}


def state(model):
    """Everything of a model that an export might change."""
    layers = list(model._flatten_layers())
    optimizer = getattr(model, "optimizer", None)
    return {
        "weights": [
            keras.ops.convert_to_numpy(w).copy() for w in model.weights
        ],
        "optimizer": [
            keras.ops.convert_to_numpy(v).copy()
            for v in getattr(optimizer, "variables", ())
        ],
        "classes": [type(layer) for layer in layers],
        "policies": [id(layer.dtype_policy) for layer in layers],
        "function": id(getattr(model, "train_function", None)),
        "trainable": [v.path for v in model.trainable_variables],
    }


def assert_same_state(before, after):
    for kind in ("weights", "optimizer"):
        for old, new in zip(before.pop(kind), after.pop(kind), strict=True):
            np.testing.assert_array_equal(old, new)
    assert before == after


def test_same_state_can_fail():
    model = trained()
    before = state(model)
    model.layers[0].bias.assign_add(tf.ones([4]) * 1e-6)
    with pytest.raises(AssertionError):
        assert_same_state(before, state(model))


@pytest.mark.slow_but(
    "[dense-onnx", "[einsum_dense-litert", "[attention-onnx", "[conv-onnx"
)
@pytest.mark.parametrize(("name", "format"), ELSEWHERE)
def test_runs_elsewhere_at_any_batch_size(name, format, tmp_path):
    need(format)
    model, path = observed(name), tmp_path / f"m{SUFFIX[format]}"
    report = tfmp.export(model, path, format)
    assert os.listdir(tmp_path) == [path.name]
    x = batch(model, rows=5, seed=1)
    y = np.float32(run(format, path, x))
    assert tfmp.ops.sqnr(outputs_of(model, x), y) > 20
    assert report.sqnr >= report.min_sqnr >= 10
    assert report.format == format and report.path == str(path)
    if format == "saved_model":
        assert report.sqnr == math.inf and report.max_abs_error == 0
    else:
        assert report.conversion_sqnr > 90
    assert "checked in" in str(report)


DELAYED = tfmp.recipes.DelayedScaling()
E5M2_KERNEL = tfmp.recipes.DelayedScaling(fp8_format=("E4M3", "E5M2", "E4M3"))


@pytest.mark.slow_but("[DelayedScaling()-None]")
@pytest.mark.parametrize(
    ("recipe", "amax"),
    [
        (DELAYED, None),
        (DELAYED, 0.01),
        (tfmp.recipes.DelayedScaling(margin=10, current=("kernel",)), 0.01),
        (E5M2_KERNEL, None),
        (E5M2_KERNEL, 1000.0),
        (tfmp.recipes.CurrentScaling(margin=10), 1000.0),
    ],
    ids=repr,
)
def test_quantized_kernels_are_those_that_fp8_multiplies(
    recipe, amax, tmp_path
):
    """The FP8 model gives the same outputs with the exported kernels."""
    policy = tfmp.Policy("mixed_float8", recipe)
    layer = tfmp.layers.Dense(8, dtype=policy, kernel_initializer="normal")
    model = keras.Sequential([keras.Input([16]), layer])
    if amax is not None:  # stale: it clips, or leaves subnormal values only
        layer.float8.assume([4.0, amax, 1.0])
    x = batch(model)
    y, kernel = outputs_of(model, x), layer.kernel.numpy()
    tfmp.export(model, tmp_path / "m", kernels="quantized", min_sqnr=-math.inf)
    rounded = saved_weights(tmp_path / "m")[layer.kernel.path]
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)
    assert np.mean(rounded != kernel) > 0.5
    layer.kernel.assign(rounded)
    np.testing.assert_array_equal(outputs_of(model, x), y)
    layer.kernel.assign(rounded * 1.1)
    assert np.any(outputs_of(model, x) != y)


@pytest.mark.slow_but("[dense]", "[einsum")
@each_model
def test_quantized_and_float_kernels(name, tmp_path):
    """Those that FP8 models multiply, and those of the Keras layers."""
    model = observed(name)
    x, weights = batch(model), model.get_weights()
    y = outputs_of(model, x)
    reports = {
        kernels: tfmp.export(model, tmp_path / kernels, kernels=kernels)
        for kernels in ("quantized", "float")
    }
    saved = saved_weights(tmp_path / "quantized")
    for weight in model.variables:
        weight.assign(saved[weight.value.name.removesuffix(":0")])
    np.testing.assert_array_equal(outputs_of(model, x), y)
    assert reports["quantized"].sqnr > reports["float"].sqnr
    model.set_weights(weights)
    exact = run("saved_model", tmp_path / "float", x)
    assert tfmp.ops.sqnr(y, exact) < 60  # not FP8 any more
    assert reports["float"].conversion_sqnr > 90
    with tfmp.policy_scope("float32"):
        tfmp.revert(model)
        tfmp.set_precision(model, "float32")
        np.testing.assert_allclose(exact, model(x, training=False), atol=1e-5)


def test_a_convolution_that_is_not_fp8_keeps_its_kernel(tmp_path):
    model = observed("conv")
    report = tfmp.export(model, tmp_path / "m", kernels="quantized")
    saved = saved_weights(tmp_path / "m")
    for row, layer in zip(report.layers, model.layers, strict=False):
        same = np.array_equal(saved[layer.kernel.path], layer.kernel)
        assert same == (row.precision == "bfloat16")
    first, second = report.layers
    assert "channels / groups = 3" in first.exported
    assert second.exported.startswith("float32, kernel rounded to E4M3 at")
    scale = 2.0 ** int(second.exported.rpartition("**")[2])
    amax = np.abs(model.layers[1].kernel).max()
    assert 100 < amax * scale <= 448


def test_lora_is_rounded_with_its_kernel(tmp_path):
    keras.utils.set_random_seed(1)
    layer = tfmp.layers.Dense(32, lora_rank=2, **FLOAT8)
    model = keras.Sequential([keras.Input([16]), layer])
    layer.lora_kernel_b.assign(tf.ones([2, 32]))
    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    report = tfmp.export(model, tmp_path / "m", kernels="quantized")
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert report.layers[0].exported.endswith("LoRA included")
    assert report.sqnr > 28  # 21 if the kernel's own rounding were added


@pytest.mark.slow
@each_format
def test_training_goes_on_as_if_nothing_had_been(format, tmp_path):
    need(format)
    model, twin = trained(), trained()
    before = state(model)
    path = tmp_path / f"m{SUFFIX[format]}"
    tfmp.export(model, path, format, kernels="quantized")
    assert_same_state(before, state(model))
    x = batch(model, rows=8, seed=7)
    for each in (model, twin):
        each.fit(x, np.ones([8, 4]), batch_size=4, verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert id(model.train_function) == before["function"]


class Broken(BaseException):
    """Not even an Exception, as when a user interrupts."""


def broken(*args):
    pathlib.Path(args[1]).mkdir()
    pathlib.Path(args[1], "half").write_text("")
    raise Broken


@pytest.mark.parametrize(
    ("kernels", "there"), [("float8", False), ("quantized", True)]
)
def test_a_failure_leaves_nothing_behind(kernels, there, tmp_path, monkeypatch):
    model, path = one(**FLOAT8), tmp_path / "m"
    if there:
        tfmp.export(model, path)
    files = sorted(tmp_path.rglob("*"))
    wrong = dataclasses.replace(runtimes.FORMATS["saved_model"], write=broken)
    monkeypatch.setitem(runtimes.FORMATS, "saved_model", wrong)
    before = state(model)
    with pytest.raises(Broken):
        tfmp.export(model, path, kernels=kernels)
    assert_same_state(before, state(model))
    assert sorted(tmp_path.rglob("*")) == files


def test_wrong_outputs_are_noticed(tmp_path, monkeypatch):
    good = runtimes.FORMATS["saved_model"]

    def off(*args):
        return [y * 1.02 for y in good.run(*args)]  # 34 dB

    def gone(*args):
        raise OSError("gone")

    for run, error, text in (
        (off, ValueError, "its layers run by Keras"),
        (gone, RuntimeError, "does not run in tensorflow"),
    ):
        wrong = dataclasses.replace(good, run=run)
        monkeypatch.setitem(runtimes.FORMATS, "saved_model", wrong)
        with pytest.raises(error, match=text):
            tfmp.export(one(), tmp_path / "m", kernels="float")
        assert os.listdir(tmp_path) == []


def test_min_sqnr(tmp_path):
    model, path = one(**FLOAT8), tmp_path / "m"
    with pytest.raises(ValueError, match=r"50.0 dB or more from the model"):
        tfmp.export(model, path, kernels="quantized", min_sqnr=50)
    assert os.listdir(tmp_path) == []
    report = tfmp.export(model, path, inputs=np.ones([2, 16]), min_sqnr=12)
    assert report.min_sqnr == 12


def test_outputs_that_are_not_finite(tmp_path):
    model = keras.Sequential([keras.Input([16]), keras.layers.Dense(1)])
    bad = np.full([1, 16], np.nan, "float32")
    with pytest.raises(ValueError, match=r"not finite(.|\n)*Received: nan"):
        tfmp.export(model, tmp_path / "m", inputs=bad)
    assert os.listdir(tmp_path) == []
    report = tfmp.export(model, tmp_path / "m", inputs=bad, min_sqnr=-math.inf)
    assert math.isnan(report.sqnr)


@pytest.mark.parametrize(
    ("dtype", "layers", "decibels"),
    [
        ("mixed_float8", 1, -10 * math.log10(2 * 2**-8)),
        ("mixed_float8", 4, -10 * math.log10(8 * 2**-8)),
        (
            tfmp.Policy("mixed_float8", E5M2_INPUTS),
            1,
            -10 * math.log10(2**-6 + 2**-8),
        ),
        ("mixed_float8", 40, 10.0),
        ("mixed_bfloat16", 2, -10 * math.log10(4 * 2**-16)),
        ("float32", 1, -10 * math.log10(2 * 2**-22)),
    ],
)
def test_expected_sqnr(dtype, layers, decibels):
    stack = [tfmp.layers.Dense(4, dtype=dtype) for _ in range(layers)]
    model = keras.Sequential([keras.Input([4]), *stack])
    assert plain_model.expected_sqnr(model) == pytest.approx(decibels)


@pytest.mark.slow
def test_expected_sqnr_holds_in_a_deep_model(tmp_path):
    stack = [
        tfmp.layers.Dense(64, "relu", kernel_initializer="he_normal", **FLOAT8)
        for _ in range(24)
    ]
    model = keras.Sequential([keras.Input([64]), *stack])
    report = tfmp.export(model, tmp_path / "m", kernels="float")
    assert report.min_sqnr == 10 < report.sqnr < 25


def test_what_is_there_is_replaced_if_of_the_same_kind(tmp_path):
    path = tmp_path / "new" / "m"
    old, new = one(), one()
    tfmp.export(old, path)
    tfmp.export(new, path)
    x = batch(new)
    y = run("saved_model", path, x)
    np.testing.assert_array_equal(y, new(x, training=False))
    (tmp_path / "empty").mkdir()
    tfmp.export(new, str(tmp_path / "empty"))
    for name in ("file", "folder/inside"):
        other = tmp_path / name
        other.parent.mkdir(exist_ok=True)
        other.write_text("mine")
        with pytest.raises(ValueError, match="`path` must be new, or a folder"):
            tfmp.export(new, tmp_path / name.split("/")[0])
        assert other.read_text() == "mine"
    with pytest.raises(ValueError, match="`path` must be new, or a file"):
        tfmp.export(new, tmp_path, "onnx")


def never_built():
    return keras.Sequential([keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"model": 1}, TypeError, "`model` must be a Keras model"),
        ({"model": never_built()}, ValueError, "`model` must be built"),
        ({"path": 1}, TypeError, "`path` must be a path"),
        ({"format": "pt"}, ValueError, "`format` must be one of"),
        ({"format": "litert"}, ValueError, "`path` must end in '.tflite'"),
        ({"path": "m.onnx"}, ValueError, "`format` must be 'onnx' for a path"),
        ({"path": "m.tflite"}, ValueError, "`format` must be 'litert' for"),
        ({"kernels": "int8"}, ValueError, "`kernels` must be one of"),
        ({"kernels": 8}, TypeError, "`kernels` must be a string"),
        ({"min_sqnr": "20"}, TypeError, "`min_sqnr` must be a number"),
        ({"min_sqnr": math.nan}, ValueError, "`min_sqnr` must be from"),
        ({"verbose": 1}, TypeError, "`verbose` must be True or False"),
        ({"inputs": [1, 2]}, ValueError, "`inputs` must hold 1 arrays"),
        ({"inputs": np.ones([2, 3])}, ValueError, "`inputs` must have shape"),
        ({"input_signature": "x"}, TypeError, "`input_signature` must"),
    ],
)
def test_bad_arguments(wrong, error, text, tmp_path):
    good = {"model": one(), "path": tmp_path / "m"}
    with pytest.raises(error, match=rf"{text}(.|\n)*Received: "):
        tfmp.export(**{**good, **wrong})
    assert os.listdir(tmp_path) == []


def test_fp8_products_are_for_tensorflow_only(tmp_path):
    with pytest.raises(ValueError, match=r"`kernels` must be one of \('quant"):
        tfmp.export(one(), tmp_path / "m", "onnx", kernels="float8")


@pytest.mark.parametrize("package", ["tf2onnx", "onnx"])
def test_a_missing_writer_is_said_before_anything(
    package, tmp_path, monkeypatch
):
    need("onnx")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="pip install tf2onnx onnx"):
        tfmp.export(one(), tmp_path / "new" / "m.onnx", "onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_a_missing_runtime_is_in_the_report(format, tmp_path, monkeypatch):
    need(format)
    module, package = runtimes.FORMATS[format].runtime
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"m{SUFFIX[format]}"
    report = tfmp.export(one(), path, format)
    assert report.sqnr is None and report.runtime is None
    assert f"note: not checked: pip install {package}" in str(report)
    assert path.stat().st_size > 300


def test_operators_that_litert_lacks_are_in_the_report(tmp_path):
    need("litert")
    layers = [keras.layers.LSTM(4), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input([3, 4]), *layers])
    report = tfmp.export(model, tmp_path / "m.tflite", "litert")
    assert report.sqnr is None
    assert "FlexTensorList" in report.notes[0]
    assert runtimes.flex_operators(str(tmp_path / "m.onnx")) == []


@each_format
def test_several_inputs_and_outputs(format, tmp_path):
    need(format)
    left = keras.Input([], dtype="int32", name="a/left".split("/")[1])
    right = keras.Input([8], name="2 right")
    x = tfmp.layers.Dense(8, **FLOAT8)(right)
    y = keras.layers.Embedding(3, 8)(left)
    model = keras.Model(
        {"left": left, "2 right": right}, {"z": x + y, "b": x, "c": left}
    )
    path = tmp_path / f"m{SUFFIX[format]}"
    dice = np.random.default_rng(0)
    given = {"left": np.array([2, 0]), "2 right": dice.normal(size=[2, 8])}
    report = tfmp.export(model, path, format, kernels="quantized", inputs=given)
    assert 15 < report.sqnr < 60


class Two(keras.Model):
    """A model of two arguments, and without `training`."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(8)

    def call(self, a, b):
        return self.dense(a), b


def test_a_model_of_its_own_class(tmp_path):
    need("onnx")
    model = Two()
    model(np.ones([2, 16]), np.ones([2, 3]))
    tfmp.convert(model, filter="all")
    signature = [
        keras.InputSpec(shape=(None, 16), dtype="float32"),
        keras.InputSpec(shape=(2, 3), dtype="float32"),
    ]
    report = tfmp.export(
        model,
        tmp_path / "m.onnx",
        "onnx",
        input_signature=signature,
        inputs=[np.ones([7, 16]), np.ones([2, 3])],
    )
    assert report.sqnr > 20
    with pytest.raises(ValueError, match=r"shape \(2, 3\) for 'input_1'"):
        tfmp.export(
            model,
            tmp_path / "n",
            input_signature=signature,
            inputs=[np.ones([7, 16]), np.ones([7, 3])],
        )


def test_stateful_layers_keep_their_state(tmp_path):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=[2, 5, 4]),
            keras.layers.LSTM(4, stateful=True),
            tfmp.layers.Dense(4, **FLOAT8),
        ]
    )
    model(np.ones([2, 5, 4]))
    variables = [*model.variables, *model.layers[0].states]
    before = [keras.ops.convert_to_numpy(v).copy() for v in variables]
    assert np.all(before[-1] != 0)
    report = tfmp.export(
        model, tmp_path / "m", input_signature=tf.TensorSpec([2, 5, 4])
    )
    assert report.sqnr > 40
    for old, new in zip(before, variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_random_inputs_fit_the_model():
    model = keras.Sequential([keras.Input([]), keras.layers.Embedding(3, 2)])
    specs = [
        tf.TensorSpec([None, None], tf.int32, "tokens"),
        {"mask": tf.TensorSpec([2, 3], tf.bool, "mask")},
        tf.TensorSpec([None, None, None, 3], tf.float16, "image"),
    ]
    tokens, mask, image = samples.values(model, specs, None)
    assert set(np.unique(tokens)) == {0, 1, 2} and tokens.dtype == np.int32
    assert mask.dtype == bool and mask.shape == (2, 3)
    assert image.shape == (4, 32, 32, 3) and image.dtype == np.float16
    with pytest.raises(ValueError, match=r"`inputs` must be given for 'text'"):
        samples.values(model, [tf.TensorSpec([None], tf.string, "text")], None)


def test_names_are_all_different():
    specs = [tf.TensorSpec([1], name=name) for name in ("a", "a", "_b-c", None)]
    found = samples.signature(one(), [specs])
    assert [spec.name for spec in found[0]] == [
        "a",
        "a_1",
        "input__b_c",
        "input_3",
    ]


def test_distance():
    one = {"b": tf.constant([3.0, 4.0]), "a": tf.constant([1])}
    worst, error = job.distance(one, [np.array([1]), np.array([3.0, 3.5])])
    assert worst == pytest.approx(20.0) and error == 0.5
    worst, _ = job.distance([tf.ones(1), tf.ones(1)], [[np.nan], [1.0]])
    assert math.isnan(worst)
    with pytest.raises(ValueError, match="zip"):
        job.distance(one, [np.array([1])])


def test_verbose(tmp_path, capsys):
    report = tfmp.export(one(**FLOAT8), tmp_path / "m", verbose=True)
    assert capsys.readouterr().out == f"{report}\n"
    assert "FP8 product" in str(report)


WITHOUT_TFMP = """
import sys
sys.modules["tfmp"] = sys.modules["keras"] = None
import numpy as np, tensorflow as tf
for folder in sys.argv[1:]:
    model = tf.saved_model.load(folder)
    outputs = model.serve(np.load(folder + ".npy"))
    np.save(folder + ".out.npy", tf.cast(outputs, tf.float32))
"""


def everything():
    """A model with an FP8 layer of each kind, one of them converted."""
    inputs = keras.Input([4, 4, 16])
    x = tfmp.layers.Conv2D(16, 3, padding="same", **FLOAT8)(inputs)
    x = keras.layers.Reshape([16, 16])(x)
    x += tfmp.layers.MultiHeadAttention(2, 8, **FLOAT8)(x, x)
    x = tfmp.layers.EinsumDense("abc,cd->abd", (16, 8), **FLOAT8)(x)
    head = keras.Sequential([keras.layers.Dense(4, "tanh", name="head")])
    model = keras.Model(inputs, head(keras.layers.Flatten()(x)))
    tfmp.convert(model, filter="head")
    return model


@pytest.mark.slow
def test_saved_models_run_without_tfmp(tmp_path):
    """Those of Keras' own `model.export`, and those of `tfmp.export`."""
    plain, ours = everything(), observed("dense")
    plain.export(tmp_path / "plain", verbose=False)
    tfmp.export(ours, tmp_path / "ours")
    for name, model in (("plain", plain), ("ours", ours)):
        np.save(tmp_path / f"{name}.npy", batch(model))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TFMP, "plain", "ours"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    y = tf.cast(plain(batch(plain)), tf.float32)
    np.testing.assert_array_equal(np.load(tmp_path / "plain.out.npy"), y)
    y = outputs_of(ours, batch(ours))
    np.testing.assert_array_equal(np.load(tmp_path / "ours.out.npy"), y)


def wide():
    """A model whose kernels are large enough for LiteRT to store in int8."""
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    layers = [dense(128, "relu"), dense(128, "relu"), dense(32)]
    model = keras.Sequential([keras.Input([64]), *layers])
    tfmp.convert(model, filter="all")
    return model


@pytest.mark.parametrize("kernels", ["int8", "int8_calibrated"])
@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_weights_of_8_bit_integers(format, kernels, tmp_path):
    model, path = wide(), tmp_path / f"m{SUFFIX[format]}"
    x = batch(model, rows=16)
    plain = tfmp.export(model, path, format, kernels="float", inputs=x)
    before = model.get_weights()
    report = tfmp.export(model, path, format, kernels=kernels, inputs=x)
    assert report.size == path.stat().st_size
    assert report.size < 0.5 * plain.size
    assert report.sqnr > report.min_sqnr
    assert 25 < report.conversion_sqnr < 60
    assert f"{report.size:,} bytes" in str(report)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_onnx_leaves_the_path_of_imports_alone(tmp_path):
    model, before = wide(), list(sys.path)
    tfmp.export(model, tmp_path / "m.onnx", "onnx", kernels="int8")
    assert sys.path == before


def test_two_inputs_are_calibrated(tmp_path):
    first, second = keras.Input([16], name="a"), keras.Input([16], name="b")
    x = keras.layers.Concatenate()([first, second])
    model = keras.Model([first, second], keras.layers.Dense(64)(x))
    values = [batch(model, 64), 5 * batch(model, 64, seed=1)]
    for format in ("litert", "onnx"):
        path = tmp_path / f"m{SUFFIX[format]}"
        report = tfmp.export(
            model, path, format, kernels="int8_calibrated", inputs=values
        )
        assert report.conversion_sqnr > 25


def test_calibration_needs_real_inputs(tmp_path):
    with pytest.raises(ValueError, match="`inputs` must be given"):
        tfmp.export(
            wide(), tmp_path / "m.onnx", "onnx", kernels="int8_calibrated"
        )
    with pytest.raises(ValueError, match="`kernels`"):
        tfmp.export(wide(), tmp_path / "m", kernels="int8")
