"""`freeze` and `thaw`: what a user gets of a model with kernels of 8 bits."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import textwrap
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp import policies

FP8 = "mixed_float8"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """Files that a test writes go with it."""
    monkeypatch.chdir(tmp_path)


def dense(recipe="delayed", *, width=32, compiled=True):
    """Returns a model of two dense layers, trained for two steps."""
    keras.utils.set_random_seed(0)
    policy = tfmp.Policy(FP8, recipe)
    model = keras.Sequential(
        [
            keras.Input([width]),
            tfmp.layers.Dense(width, "relu", dtype=policy, name="body"),
            tfmp.layers.Dense(width, dtype=policy, name="head"),
        ]
    )
    if compiled:
        model.compile("adam", "mse")
        model.train_on_batch(data(width), data(width))
        model.train_on_batch(data(width), data(width))
    return model


def data(width=32, rows=8):
    """Returns random inputs."""
    found = np.random.default_rng(1).normal(size=[rows, width])
    return found.astype("float32")


def trained(inputs, outputs, shape):
    """Returns a functional model and inputs, trained for one step."""
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True)))
    tape.gradient(loss, [v.value for v in model.trainable_variables])
    return model, x


def of_einsum():
    inputs = keras.Input([4, 16])
    layer = tfmp.layers.EinsumDense(
        "abc,cde->abde", (None, 2, 8), bias_axes="de", dtype=FP8
    )
    return trained(inputs, layer(inputs), [2, 4, 16])


def of_attention():
    inputs = keras.Input([4, 16])
    layer = tfmp.layers.MultiHeadAttention(2, 8, dtype=FP8)
    return trained(inputs, layer(inputs, inputs), [2, 4, 16])


def of_convolution():
    inputs = keras.Input([8, 8, 16])
    x = tfmp.layers.Conv2D(16, 3, padding="same", dtype=FP8)(inputs)
    x = tfmp.layers.Conv2D(32, 1, strides=2, dtype=FP8)(x)
    return trained(inputs, x, [2, 8, 8, 16])


def of_dense():
    return dense(), data()


MODELS = {
    "Dense": of_dense,
    "EinsumDense": of_einsum,
    "MultiHeadAttention": of_attention,
    "Conv2D": of_convolution,
}


def same(x, y):
    """Whether two arrays are equal, bit for bit."""
    x, y = (np.asarray(each, "float32") for each in (x, y))
    return x.dtype == y.dtype and np.array_equal(x, y)


@pytest.mark.slow_but("[Dense]")
@pytest.mark.parametrize("kind", MODELS)
def test_predictions_are_those_of_before(kind, tmp_path):
    model, x = MODELS[kind]()
    before = model.predict(x, verbose=0), model.predict(x[:1], verbose=0)
    report = tfmp.freeze(model)
    assert report.after < 0.5 * report.before
    frozen = [x for x in model.variables if x.dtype == "uint8"]
    assert len(frozen) == sum(bool(row.inputs) for row in report.rows)
    assert len(frozen) == {"MultiHeadAttention": 4, "EinsumDense": 1}.get(
        kind, 2
    )
    assert all("from training" in r.inputs for r in report.rows if r.inputs)
    assert not [
        v for v in model.variables if "kernel" == v.name and v.trainable
    ]
    after = model.predict(x, verbose=0), model.predict(x[:1], verbose=0)
    assert all(map(same, before, after))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert same(loaded.predict(x, verbose=0), before[0])
    assert [v.dtype for v in loaded.weights] == [v.dtype for v in model.weights]
    assert [v.name for v in loaded.weights] == [v.name for v in model.weights]
    tfmp.thaw(loaded)
    kinds = {v.dtype for v in loaded.weights}
    assert kinds == {"float32"}


@pytest.mark.slow
def test_a_converted_model():
    """Layers that are saved as Keras', with a table of policies."""
    inputs = keras.Input([4, 16])
    x = keras.layers.MultiHeadAttention(2, 8)(inputs, inputs)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(16)(x)
    model = keras.Model(inputs, x)
    tfmp.convert(model, filter="all")
    values = np.ones([2, 4, 16], "float32")
    before = model.predict(values, verbose=0)
    tfmp.freeze(model)
    assert same(before, model.predict(values, verbose=0))
    model.save("converted.keras")
    loaded = keras.saving.load_model("converted.keras")
    assert same(before, loaded.predict(values, verbose=0))
    tfmp.thaw(loaded)
    tfmp.revert(loaded)
    assert type(loaded.layers[-1]) is keras.layers.Dense


def test_the_masters_are_gone():
    model = dense()
    masters = [weakref.ref(x.kernel) for x in model.layers]
    values = [weakref.ref(x.kernel.value) for x in model.layers]
    tfmp.freeze(model)
    gc.collect()
    assert not any(each() is not None for each in [*masters, *values])
    assert len(model.optimizer.variables) == 2 + 2 * 2  # of two biases


@pytest.mark.slow
def test_weights_files_of_either_kind(tmp_path):
    model, x = dense(), data()
    model.save_weights(tmp_path / "wide.weights.h5")
    before = model.predict(x, verbose=0)
    tfmp.freeze(model)
    model.save_weights(tmp_path / "frozen.weights.h5")
    sizes = [
        os.path.getsize(tmp_path / f"{name}.weights.h5")
        for name in ("wide", "frozen")
    ]
    assert sizes[1] < sizes[0]
    for name in ("wide", "frozen"):
        other = dense()
        other.train_on_batch(x, 3 * x)
        tfmp.freeze(other)
        assert not same(other.predict(x, verbose=0), before)
        other.load_weights(tmp_path / f"{name}.weights.h5")
        assert same(other.predict(x, verbose=0), before)
    with pytest.raises(ValueError, match="must be frozen to load"):
        dense().load_weights(tmp_path / "frozen.weights.h5")
    plain = keras.Sequential(
        [
            keras.Input([32]),
            keras.layers.Dense(32, name="body"),
            keras.layers.Dense(32, name="head"),
        ]
    )
    with pytest.raises(ValueError):
        plain.load_weights(tmp_path / "frozen.weights.h5")
    plain.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match="amax of its inputs"):
        model.load_weights(tmp_path / "plain.weights.h5")


def test_thawed_it_trains_on():
    model, x = dense(), data()
    before = model.predict(x, verbose=0)
    names = [v.path for v in model.weights]
    tfmp.freeze(model)
    report = tfmp.thaw(model)
    assert "masters are gone" in str(report)
    assert [v.path for v in model.weights] == names
    assert {v.dtype for v in model.weights} == {"float32"}
    assert same(model.predict(x, verbose=0), before)
    losses = model.fit(x, x, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert int(model.optimizer.iterations) == 2 + 5


def test_training_raises():
    model, x = dense(), data()
    tfmp.freeze(model)
    with pytest.raises(RuntimeError, match=r"tfmp\.thaw"):
        model.fit(x, x, verbose=0)
    with pytest.raises(RuntimeError, match=r"tfmp\.thaw"):
        model(x, training=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x))
    with pytest.raises(LookupError, match=r"tfmp\.thaw"):
        tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert np.isfinite(model.evaluate(x, x, verbose=0))


@pytest.mark.parametrize("rank", [1, 2])
def test_the_bias_alone_raises_too(rank):
    layer = {
        1: tfmp.layers.Conv1D(16, 3, padding="same", dtype=FP8),
        2: tfmp.layers.Conv2D(16, 3, padding="same", dtype=FP8),
    }[rank]
    x = tf.ones([2, *[4] * rank, 16])
    layer(x)
    tfmp.freeze(layer)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(layer(x))
    with pytest.raises(LookupError, match=r"tfmp\.thaw"):
        tape.gradient(loss, [layer.bias.value])
    with pytest.raises(RuntimeError, match=r"tfmp\.thaw"):
        keras.Sequential([layer])(x, training=True)


def test_a_frozen_part_under_a_head():
    """Which trains alone, as in Keras' guide of transfer learning."""
    base, x = dense(compiled=False), data()
    tfmp.freeze(base)
    inputs = keras.Input([32])
    outputs = keras.layers.Dense(1)(base(inputs, training=False))
    model = keras.Model(inputs, outputs)
    base.trainable = False
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(x, x[:, :1], verbose=0).history["loss"][0])


@pytest.mark.slow
def test_inputs_that_training_has_not_seen():
    """Current scaling looks at each batch; with data it need not."""
    model, x = dense("current"), data()
    before = model.predict(x, verbose=0)
    report = tfmp.freeze(model)
    assert all("own amax" in row.inputs for row in report.rows)
    assert same(before, model.predict(x, verbose=0))
    tfmp.thaw(model)
    given = tf.data.Dataset.from_tensor_slices((x, x)).batch(4)
    for calibration in (x, given):
        report = tfmp.freeze(model, calibration)
        assert all("from data" in row.inputs for row in report.rows)
        assert same(before, model.predict(x, verbose=0))
        assert len(model.layers[0].weights) == 4
        tfmp.thaw(model)
    with pytest.raises(ValueError, match="all zero"):
        tfmp.freeze(model, 0 * x)
    with pytest.raises(TypeError, match="data"):
        tfmp.freeze(model, 3)
    assert same(before, model.predict(x, verbose=0))


def test_layers_that_are_not_trained_scale_by_themselves():
    model, x = dense(), data()
    model.layers[0].trainable = False
    before = model.predict(x, verbose=0)
    report = tfmp.freeze(model)
    assert [r.inputs.split(", ")[1] for r in report.rows] == [
        "from its own amax",
        "from training",
    ]
    assert same(before, model.predict(x, verbose=0))


@pytest.mark.slow
def test_a_scale_for_each_channel():
    """Small columns keep their values: a tensor's scale makes them zero."""
    for first in ("channels_last", "channels_first"):
        layer = tfmp.layers.Conv1D(16, 1, data_format=first, dtype=FP8)
        shape = [2, 3, 16] if first == "channels_last" else [2, 16, 3]
        _few_zeros(layer, tf.ones(shape), first == "channels_first")
    _few_zeros(tfmp.layers.Dense(16, dtype=FP8), tf.ones([2, 16]))
    heads = tfmp.layers.EinsumDense("ab,bcd->acd", (2, 8), dtype=FP8)
    _few_zeros(heads, tf.ones([2, 16]))


def _few_zeros(layer, x, behind=False):
    layer(x)
    kernel = np.array(layer.kernel)
    kernel[:] = 1.0
    kernel[..., 0] = 2.0**-30
    layer.kernel.assign(kernel)
    tfmp.freeze(layer, scales="channel")
    found = np.asarray(layer(x), "float32")
    found = np.moveaxis(found, 1, -1) if behind else found
    assert same(found[..., 0], np.full(found.shape[:-1], 16 * 2.0**-30))
    assert same(found[..., 1], np.full(found.shape[:-1], 16.0))
    assert same(layer.kernel, kernel)


def test_what_stays_is_named():
    inputs = keras.Input([8, 8, 3])
    x = tfmp.layers.Conv2D(16, 3, dtype=FP8)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = tfmp.layers.Conv2D(16, 3, dtype=FP8)(x)
    model = keras.Model(inputs, x)
    values = np.ones([1, 8, 8, 3], "float32")
    before = model.predict(values, verbose=0)
    report = tfmp.freeze(model)
    assert [bool(row.inputs) for row in report.rows] == [False, False, True]
    assert "not a multiple of 16" in report.rows[0].kernel
    assert same(before, model.predict(values, verbose=0))
    assert "1 of 3 layers with weights frozen" in str(report)


def test_what_cannot_be_frozen():
    with pytest.raises(ValueError, match="layers in FP8"):
        tfmp.freeze(keras.Sequential([keras.Input([4]), keras.layers.Dense(4)]))
    with pytest.raises(ValueError, match="built"):
        tfmp.freeze(keras.Sequential([tfmp.layers.Dense(4, dtype=FP8)]))
    with pytest.raises(TypeError, match="model"):
        tfmp.freeze(None)
    model = dense(compiled=False)
    with pytest.raises(ValueError, match="scales"):
        tfmp.freeze(model, scales="row")
    with pytest.raises(ValueError, match=r"tfmp\.freeze"):
        tfmp.thaw(model)
    model.layers[1].kernel.assign(np.full([32, 32], np.nan))
    with pytest.raises(ValueError, match="finite"):
        tfmp.freeze(model)
    assert model.layers[0].kernel.dtype == "float32"


def test_what_a_frozen_model_refuses():
    model = dense(compiled=False)
    tfmp.freeze(model)
    for change in (
        tfmp.freeze,
        tfmp.convert,
        tfmp.revert,
        lambda model: tfmp.set_precision(model, "float32"),
        lambda model: model.layers[0].enable_lora(2),
    ):
        with pytest.raises(ValueError, match=r"tfmp\.thaw"):
            change(model)
    with pytest.warns(UserWarning, match="frozen"):
        model.quantize("int8")
    assert model.layers[0].holds_bytes


def test_a_gpu_is_given_bytes_and_no_wide_kernel():
    model, x = dense(width=48, compiled=False), data(48)
    kernel = re.compile(r"(f32|bf16)\[48,48\]")
    assert kernel.search(gpu_program(model, x))
    tfmp.freeze(model, x)
    found = gpu_program(model, x)
    assert "u8[48,48]" in found and "f8e4m3fn[48,48]" in found
    assert not kernel.search(found)


def gpu_program(model, x):
    """Returns what XLA is given for a GPU, of inference."""
    variables = model.variables

    @tf.function(jit_compile=True, autograph=False)
    def run(x, *values):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(mapping):
            return model(x, training=False)

    values = [tf.constant(v.numpy()) for v in variables]
    ir = run.experimental_get_compiler_ir(tf.constant(x), *values)
    return ir(stage="hlo", platform_name="GPU")


def test_static_scales_are_kept():
    policy = tfmp.Policy(FP8, tfmp.recipes.StaticScaling(scale=(4, 16, 1)))
    layer, x = tfmp.layers.Dense(16, dtype=policy), tf.ones([2, 16])
    before = layer(x)
    tfmp.freeze(layer)
    assert same(before, layer(x))
    assert float(layer.inputs_scale) == 4 and float(layer.kernel_scale) == 16


def test_the_policy_round_trips():
    recipe = tfmp.recipes.DelayedScaling(margin=1)
    policy = policies.FrozenPolicy(recipe, "channel", static_inputs=False)
    config = keras.dtype_policies.serialize(policy)
    assert keras.dtype_policies.get(config) == policy
    assert hash(keras.dtype_policies.get(config)) == hash(policy)
    assert policy != policies.FrozenPolicy(recipe)
    assert policy != tfmp.Policy(FP8, recipe) != policy
    assert policy.thawed == tfmp.Policy(FP8, recipe)


def size_of(folder):
    """Returns the bytes of all files in a folder."""
    return sum(
        os.path.getsize(os.path.join(path, file))
        for path, _, files in os.walk(folder)
        for file in files
    )


def variables_in(folder):
    return size_of(os.path.join(folder, "variables"))


SERVE = """
import sys
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load("served")
assert "tfmp" not in sys.modules
x = np.load("x.npy")
for rows in (1, 3, 8):
    found = loaded.serve(x[:rows]).numpy()
    assert found.dtype == np.float32, found.dtype
    np.save(f"y{rows}.npy", found)
"""


@pytest.mark.slow
def test_a_saved_model_is_small_and_needs_no_tfmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, x = dense(width=256, compiled=False), data(256)
    tfmp.export(model, "wide")
    tfmp.freeze(model)
    expected = {n: model.predict(x[:n], verbose=0) for n in (1, 3, 8)}
    report = tfmp.export(model, "served")
    assert "8 bits" in report.layers[0].exported
    assert variables_in("served") < 0.27 * variables_in("wide")
    assert size_of("served") - variables_in("served") < 100_000  # a graph
    np.save("x.npy", x)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    script = textwrap.dedent(SERVE)
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    for rows, each in expected.items():
        assert same(np.load(f"y{rows}.npy"), each)


@pytest.mark.slow
def test_the_outputs_of_a_saved_model_have_the_dtype_asked_for(tmp_path):
    model, x = dense(compiled=False), data()
    for name, dtype in (
        ("saved_model", "float32"),
        ("saved_model:bfloat16", "bfloat16"),
        ("saved_model:float16", "float16"),
    ):
        path = str(tmp_path / dtype)
        tfmp.export(model, path, name)
        loaded = tf.saved_model.load(path)
        served = loaded.serve(x)
        assert served.dtype == dtype
        assert np.allclose(served, model(x), rtol=1e-2, atol=1e-3)


def test_other_runtimes_get_the_values_of_the_bytes():
    model, x = dense(compiled=False), data()
    tfmp.freeze(model)
    rounded = [np.array(layer.kernel) for layer in model.layers]
    report = tfmp.export(model, "quantized", kernels="quantized")
    assert "rounded to E4M3" in report.layers[0].exported
    assert all(layer.holds_bytes for layer in model.layers)
    loaded = tf.saved_model.load("quantized")
    y = np.maximum(x @ rounded[0], 0) @ rounded[1]
    assert np.allclose(loaded.serve(x), y, atol=1e-4)
