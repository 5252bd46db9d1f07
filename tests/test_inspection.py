"""What `tfmp.inspect` says of models and functions; it leaves them alone."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfmp
from tfmp._inspection import (
    deviceless,
    hlo,
    inspected_steps,
    inspector,
    targets,
)
from tfmp.conversion.sizes import Sizes

FORWARD, INPUT, KERNEL = (
    ("f8e4m3fn", "f8e4m3fn"),
    ("f8e5m2", "f8e4m3fn"),
    ("f8e4m3fn", "f8e5m2"),
)
GRADIENTS = ["input_grad", "kernel_grad"]


def make_model():
    """Two calls of one layer, two alike, nested, stock, with batch axes."""
    kind = {"dtype": "mixed_float8"}
    alike = [tfmp.layers.Dense(16, name=name, **kind) for name in ("a", "b")]
    inner = keras.Sequential([keras.Input([16]), *alike], name="inner")
    shared = tfmp.layers.Dense(16, name="shared", **kind)
    inputs = keras.Input([16])
    x = shared(inner(shared(inputs)))
    x = layers.BatchNormalization(name="norm")(layers.Dropout(0.5)(x))
    x = layers.Dense(16, "relu", name="stock", dtype="mixed_bfloat16")(x)
    x = layers.RepeatVector(5)(x)
    x = tfmp.layers.Conv1D(16, 2, name="conv", **kind)(x)
    return keras.Model(inputs, layers.Flatten()(x), name="net")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def report(model):
    return tfmp.inspect(model, batch_size=8)


def products_of(report, layer):
    """Returns the products of a layer, in order."""
    return [row.product for row in report.products if row.layer == layer]


def test_every_product_has_its_layer(report):
    assert {row.layer for row in report.products} == {
        *("net/inner/a", "net/inner/b", "net/shared", "net/stock", "net/conv")
    }
    alike = ["output", *GRADIENTS]
    for layer in ("net/inner/a", "net/inner/b", "net/stock", "net/conv"):
        assert products_of(report, layer) == alike
    # The first of its calls has no gradient of the input.
    assert sorted(products_of(report, "net/shared")) == sorted(
        ["output", "output", *GRADIENTS, "kernel_grad"]
    )


def test_types_sizes_and_flops(report):
    for row in report.products:
        types = {"output": FORWARD, "input_grad": INPUT, "kernel_grad": KERNEL}
        if row.layer == "net/stock":
            types = dict.fromkeys(types, ("bf16", "bf16"))
        elif row.layer == "net/conv":
            types |= {"input_grad": FORWARD, "kernel_grad": ("bf16", "bf16")}
        assert row.operands == types[row.product], row
        assert row.float8 == (row.operands[0][:2] == "f8"), row
        size = {"kernel_grad": "16 x 8 x 16"}
        if row.layer == "net/conv":
            size = {"input_grad": "40 x 32 x 16", "output": "32 x 32 x 16"}
            size["kernel_grad"] = "32 x 32 x 16"
        assert row.size == size.get(row.product, "8 x 16 x 16")
        larger = 8 if row.layer == "net/conv" else 1
        assert row.flops == larger * 2 * 8 * 16 * 16
        assert row.kernels == {} and not row.fallback
    low = [row.float8 for row in report.products].count(True)
    assert (low, report.float8_products) == (13, 13)
    assert report.float8_share == 27 / 38 and report.fallbacks == ()


def test_reasons(report):
    reasons = {
        row.layer: row.reason for row in report.products if not row.float8
    }
    assert reasons == {
        "net/stock": "by its policy, mixed_bfloat16",
        "net/conv": "GPUs have no FP8 kernel for it",
    }


def test_it_prints_and_serialises(report):
    text = str(report)
    assert text.startswith("net: the program that XLA is given")
    assert "13 of 17 products, 71.1% of the FLOPs" in text
    assert "FP8 runs as bfloat16 on a CPU" in text and "fall-back" not in text
    assert repr(report) == text
    values = json.loads(json.dumps(report.to_dict()))
    assert values["float8_share"] == report.float8_share
    rows = [
        tfmp.InspectedProduct(**{**row, "operands": tuple(row["operands"])})
        for row in values["products"]
    ]
    assert tuple(rows) == report.products


def state_of(model):
    every = [*model.variables, *model.optimizer.variables]
    return [v.numpy() for v in [*every, *model.metrics_variables]]


def test_the_model_stays_as_it_is_and_labels_give_the_loss():
    model = make_model()
    x, y = np.ones([8, 16], "float32"), np.ones([8], "int32")
    model.compile(
        tfmp.optimizers.LossScaleOptimizer("adam"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.train_on_batch(x, y)
    before, names = state_of(model), [v.path for v in model.variables]
    tf.random.set_seed(1)
    keras.utils.set_random_seed(1)
    expected = tf.random.normal([]), keras.random.normal([])
    keras.utils.set_random_seed(1)
    found = tfmp.inspect(model, x, y)
    assert tf.random.normal([]) == expected[0]
    assert keras.random.normal([]) == expected[1]
    assert found.float8_products == 13
    for old, new in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert names == [v.path for v in model.variables]
    assert not model.losses and "call" not in vars(model.get_layer("stock"))


class Decorated(keras.Model):
    """Its `call` is a `tf.function`, which reads the variables itself."""

    def __init__(self):
        super().__init__(name="net")
        self.first = tfmp.layers.Dense(16, dtype="mixed_float8")
        self.norm = layers.BatchNormalization()
        self.last = tfmp.layers.Dense(16, dtype="mixed_float8")

    @tf.function
    def call(self, x, training=False):
        return self.last(self.norm(self.first(x), training=training))


def test_a_model_with_a_function_of_its_own():
    model, x = Decorated(), np.eye(8, 16, dtype="float32")
    model(x)
    model.compile("sgd", "mse", jit_compile=False)
    before = [v.numpy() for v in model.variables]
    found = [tfmp.inspect(model, x, x).float8_products for _ in range(2)]
    assert found == [5, 5]
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    model.train_on_batch(x, x)  # by the trace that was inspected
    for old, new in zip(before, model.trainable_variables, strict=False):
        assert not np.array_equal(old, new), new.path
    assert np.any(model.norm.moving_mean.numpy())


class Recomputed(keras.layers.Layer):
    """Keeps nothing of the layer inside for the backward pass."""

    def __init__(self):
        super().__init__()
        self.inner = tfmp.layers.Dense(16, dtype="mixed_float8")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return keras.remat(self.inner)(x)


def test_gradients_of_what_is_recomputed():
    last = tfmp.layers.Dense(16, dtype="mixed_float8", name="last")
    model = keras.Sequential([keras.Input([16]), Recomputed(), last])
    found = [row.product for row in tfmp.inspect(model).products]
    assert found.count("kernel_grad") == 2 and found.count("input_grad") == 1


def test_the_factors_of_lora_are_no_fall_backs():
    layer = tfmp.layers.Dense(16, dtype="mixed_float8", name="only")
    model = keras.Sequential([keras.Input([16]), layer], name="net")
    layer.enable_lora(4)
    found = tfmp.assert_fp8(model)
    rows = [row for row in found.products if not row.float8]
    assert len(rows) == 3 and {row.product for row in rows} == {"lora"}
    assert all("LoRA" in row.reason for row in rows)


def test_a_model_without_float8_has_no_note_about_it():
    model = keras.Sequential([keras.Input([16]), layers.Dense(8)], name="net")
    found = tfmp.inspect(model)
    assert found.notes == () and len(found.products) == 2


def test_text_is_not_compiled():
    words = layers.TextVectorization(vocabulary=["a"])
    model = keras.Sequential([keras.Input([1], dtype="string"), words])
    with pytest.raises(ValueError, match="one that XLA can compile; text"):
        tfmp.inspect(model)


@pytest.mark.slow
def test_a_function_that_assigns_variables():
    kernel = tf.Variable(tf.ones([16, 16]))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape, tf.name_scope("mine"):
            y = tfmp.ops.matmul(x["x"], kernel)
            loss = tf.reduce_sum(tf.square(y @ x["w"]))
        kernel.assign_sub(tape.gradient(loss, kernel))

    given = {"x": tf.TensorSpec([None, 16]), "w": np.ones([16, 16])}
    found = tfmp.inspect(step, given, batch_size=4)
    rows = [(row.layer, row.product, row.operands) for row in found.products]
    assert sorted(rows) == [
        ("mine", "input_grad", ("f32", "f32")),
        ("mine", "kernel_grad", KERNEL),
        ("mine", "output", ("f32", "f32")),
        ("mine", "output", FORWARD),
    ]
    assert found.subject == "step"
    np.testing.assert_array_equal(kernel, np.ones([16, 16]))


def test_keras_float8_is_a_fall_back():
    kind = "float8_from_mixed_bfloat16"
    layer = layers.Dense(16, name="quantized", dtype=kind)
    model = keras.Sequential([keras.Input([16]), layer], name="net")
    found = tfmp.inspect(model)
    assert [row.fallback for row in found.products] == [True, True]
    assert "Keras' float8 rounds to FP8 and back" in str(found.products[0])
    with pytest.raises(AssertionError, match="2 products should be in FP8"):
        tfmp.assert_fp8(model)


@pytest.fixture(scope="module")
def kept_back():
    """One product of a layer is kept in the compute dtype by its recipe."""
    recipe = tfmp.recipes.DelayedScaling().keep_high_precision(["kernel_grad"])
    policy = tfmp.Policy("mixed_float8", recipe)
    layer = tfmp.layers.Dense(16, name="layer", dtype=policy)
    stock = layers.Dense(16, name="stock", dtype=policy)
    return keras.Sequential([keras.Input([16]), layer, stock], name="net")


@pytest.mark.filterwarnings("ignore:tfmp. 'net/stock' is a stock")
def test_what_a_recipe_leaves_out_is_no_fall_back(kept_back):
    found = tfmp.assert_fp8(kept_back, min_share=0.2, layers=["layer"])
    reasons = {(row.layer, row.product): row.reason for row in found.products}
    assert reasons["net/layer", "output"] == ""
    kept = "the recipe keeps it in bfloat16"
    assert reasons["net/layer", "kernel_grad"] == kept
    stock = "a stock Dense: `tfmp.convert` takes it to FP8"
    assert reasons["net/stock", "output"] == stock


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_share": 0.3}, "20.0% of the FLOPs are in FP8, less than 30.0%"),
        ({"layers": ["stock"]}, "no product of 'stock' is in FP8"),
        (
            {"layers": ["lay.*", "head"]},
            "no layer with products matches",
        ),
    ],
)
def test_assertions_that_fail(kept_back, arguments, message):
    with pytest.raises(AssertionError) as error:
        tfmp.assert_fp8(kept_back, **arguments)
    assert message in str(error.value)
    assert "net/layer  output" in str(error.value)


def test_an_assertion_without_any_float8():
    with pytest.raises(AssertionError, match="no product is in FP8"):
        tfmp.assert_fp8(lambda x: x @ x, tf.ones([4, 4]))


@pytest.mark.slow
def test_what_is_compiled_here(model):
    """The way of a real GPU, on this device: XLA widens FP8 on a CPU."""
    step = inspected_steps.of_model(model, (), Sizes(8))
    program = inspector.compiled_for(step, "/device:CPU:0")
    assert program.said.endswith("compiled it for /device:CPU:0")
    assert program.kernels["compiled"] > 0
    assert len(program.fates) == 17 and all(f.is_given for f in program.fates)
    # Of those of FP8 operands, a CPU is given the matrix products widened.
    assert [fate.given.is_float8 for fate in program.fates].count(True) == 2
    others = hlo.Program(step.for_accelerators("hlo")).products()
    assert [product.is_float8 for product in others].count(True) == 13
    assert not any(fate.is_float8 for fate in program.fates)


def unbuilt():
    return keras.Sequential([layers.Dense(4)])


def dense():
    return keras.Sequential([keras.Input([4]), layers.Dense(4)], name="net")


class Open(keras.layers.Layer):
    """Does not say what it takes."""

    def call(self, x):
        return x @ x


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "`model_or_function` must be", (3,)),
        (TypeError, "`model_or_function` must be", (keras.Model,)),
        (ValueError, "`model_or_function` must be built", (unbuilt,)),
        (TypeError, "`inputs` must be arrays", (len, 3.0)),
        (TypeError, "`inputs` must be arrays", (dense, [1.0, 2.0])),
        (TypeError, "`inputs` must be arrays", (dense, "abc")),
        (ValueError, "known rank", (len, tf.TensorSpec(None))),
        (ValueError, "^`y`, .* needs a model that is", (dense, 0, 0)),
        (ValueError, "x, y and sample_weight", (dense, 0, 0, 0, 0)),
    ],
)
def test_wrong_arguments(error, message, arguments):
    subject, *inputs = arguments
    subject = subject() if subject in (unbuilt, dense) else subject
    x = np.ones([2, 4])
    inputs = [x if isinstance(i, int) else i for i in inputs]
    with pytest.raises(error, match=message):
        tfmp.inspect(subject, *inputs)


def test_a_layer_says_what_it_takes_or_is_given_it():
    layer = Open()
    layer.build([None, 4])
    with pytest.raises(ValueError, match="`inputs` must be given"):
        tfmp.inspect(layer)
    [row] = tfmp.inspect(layer, np.ones([4, 4])).products
    assert (row.layer, row.product) == (layer.name, "output")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("target", "tpu", ValueError),
        ("target", 1, TypeError),
        ("batch_size", 0, ValueError),
        ("length", 1.5, TypeError),
        ("min_share", 1.5, ValueError),
        ("layers", "head", TypeError),
        ("layers", ["("], ValueError),
    ],
)
def test_wrong_options(name, value, error):
    with pytest.raises(error, match=name):
        tfmp.assert_fp8(dense(), **{name: value})


def test_a_target_says_what_to_install(monkeypatch):
    """A Python that is not there, and one without JAX."""
    empty = tf.TensorSpec([4, 4])
    for python, message in (
        ("/nowhere/python", "does not run"),
        (sys.executable, "lacks JAX"),
    ):
        monkeypatch.setenv(deviceless.VARIABLE, python)
        with pytest.raises(ImportError, match=message) as error:
            tfmp.inspect(lambda x: x @ x, empty, target="h200")
        assert "pip install jax==" in str(error.value)
    monkeypatch.delenv(deviceless.VARIABLE)
    with pytest.raises(ImportError, match="export TFMP_JAX_PYTHON"):
        tfmp.inspect(lambda x: x @ x, empty, target="h200")


def has_jax():
    """Whether this machine can compile for a GPU that is not here."""
    try:
        command = [deviceless.jax_python(), "-c", "import jax_cuda12_plugin"]
        return not subprocess.run(command, capture_output=True).returncode
    except (ImportError, OSError):
        return False


@pytest.mark.skipif("not has_jax()", reason="needs JAX's CUDA plug-in")
def test_compiled_for_an_h200(model):
    found = tfmp.assert_fp8(model, target="h200", batch_size=16)
    assert found.float8_products == 13
    assert found.float8_by_mode == {"triton": 13, "cublaslt": 13}
    kernels = {row.layer: set(row.kernels.values()) for row in found.products}
    assert kernels["net/inner/b"] == {"triton", "cublaslt"}
    assert kernels["net/conv"] == {"cudnn"}
    assert min(found.kernels.values()) > 20 and "h200, not run" in str(found)
    assert set(found.temporary_bytes) == set(found.kernels)


@pytest.mark.skipif("not has_jax()", reason="needs JAX's CUDA plug-in")
@pytest.mark.parametrize("target", sorted({*targets.TARGETS} - {"h200"}))
def test_compiled_for_other_gpus(target):
    layer = tfmp.layers.Dense(64, dtype="mixed_float8")
    model = keras.Sequential([keras.Input([64]), layer])
    found = tfmp.inspect(model, target=target)
    assert found.float8_by_mode == {"triton": 2, "cublaslt": 2}
    ada = targets.TARGETS[target].generation is targets.ADA
    triton = "cublaslt" if ada else "triton"
    [kernels] = {tuple(row.kernels.items()) for row in found.products}
    assert kernels == (("triton", triton), ("cublaslt", "cublaslt"))


def test_no_two_targets_are_described_alike():
    every = [gpu.description() for gpu in targets.TARGETS.values()]
    assert len(set(every)) == len(every)
