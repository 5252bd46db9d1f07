"""tfmp.convert and tfmp.revert on models of every kind."""

import functools
import json
import pathlib

import forked
import keras
import models
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp.conversion.records import flatten
from tfmp.layers.float8_state import all_states
from tfmp.optimizers import LossScaleOptimizer

every_model = pytest.mark.parametrize("name", models.MODELS)


def kinds(model):
    """Returns the class of each layer, and its policy's name, by path."""
    return {
        path: (type(layer), layer.dtype_policy.name)
        for path, layer in flatten(model).items()
    }


def policies_of(model):
    """Returns the policies of all layers with products or weights."""
    return [
        (row.type, row.precision, row.recipe)
        for row in tfmp.ConversionReport(model).rows
    ]


def amax_of(model):
    return [state.amax for state in all_states(model)]


def contractions(model):
    kinds = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv1D)
    return [x for x in flatten(model).values() if isinstance(x, kinds)]


def fit(model, optimizer=None, epochs=1, **options):
    """Eagerly, if it compiles: there XLA compiles an FP8 product only once."""
    if optimizer is not None:
        model.compile(optimizer, "mse", run_eagerly=True)
    x, y = models.data(16)
    return model.fit(x, y, 8, epochs, verbose=0, **options).history["loss"]


@every_model
def test_every_contraction_is_converted_in_place(name):
    model = models.MODELS[name]()
    objects = list(flatten(model).values())
    before = models.values(model.variables)
    paths = [v.path for v in model.variables]
    tfmp.convert(model)
    layers = contractions(model)
    assert layers and all(layer.recipe for layer in layers)
    assert len(amax_of(model)) == len(layers)
    assert all(
        a is b for a, b in zip(objects, flatten(model).values(), strict=True)
    )
    kept = [v for v in model.variables if "/float8/" not in v.path]
    assert sorted(v.path for v in kept) == sorted(paths)
    for a, b in zip(before, models.values(kept), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow_but("[sequential")
@pytest.mark.parametrize(
    "make",
    [
        *models.MODELS.values(),
        functools.partial(models.sequential, built=False),
        functools.partial(models.subclassed, built=False),
    ],
    ids=[*models.MODELS, "sequential, not built", "subclassed, not built"],
)
def test_a_converted_model_trains_and_is_saved(make, tmp_path):
    keras.utils.set_random_seed(0)
    model = make()
    tfmp.convert(model)
    inner = keras.optimizers.Adam(0.01)
    losses = fit(model, LossScaleOptimizer(inner), epochs=3)
    assert losses[-1] < losses[0]
    assert len(amax_of(model)) == len(contractions(model)) > 0
    assert all((v.numpy() > 0).all() for v in amax_of(model))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x, _ = models.data(16)
    np.testing.assert_array_equal(model(x), loaded(x))
    assert len(amax_of(loaded)) == len(amax_of(model))
    assert fit(loaded)[-1] <= losses[0]
    assert policies_of(loaded) == policies_of(model)


@pytest.mark.slow_but("[sequential]", "[functional]")
@every_model
def test_reverting_gives_everything_back(name):
    model = models.MODELS[name]()
    x, _ = models.data(16)
    before, outputs = kinds(model), model(x)
    weights = models.values(model.variables)
    tfmp.convert(model)
    assert kinds(model) != before
    tfmp.revert(model)
    assert kinds(model) == before
    assert not amax_of(model)
    np.testing.assert_array_equal(outputs, model(x))
    for a, b in zip(weights, models.values(model.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    tfmp.convert(model)
    fit(model, LossScaleOptimizer("sgd"))
    weights = models.values(model.variables)
    tfmp.revert(model)
    assert kinds(model) == before
    for a, b in zip(weights, models.values(model.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    fit(model)


def test_what_is_not_built_is_reverted_too():
    model = models.subclassed(built=False)
    before = kinds(model)
    tfmp.convert(model)
    tfmp.revert(model)
    assert kinds(model) == before
    fit(model, "sgd")
    assert not amax_of(model)


@pytest.mark.parametrize("is_converted", [True, False])
@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (functools.partial(tfmp.layers.Dense, 4), 1),
        (
            functools.partial(
                tfmp.layers.EinsumDense, "abc,cd->abd", [None, 4]
            ),
            1,
        ),
        (functools.partial(tfmp.layers.Conv1D, 4, 2), 1),
        (tfmp.layers.BatchNormalization, 1),
        (functools.partial(tfmp.layers.MultiHeadAttention, 2, 4), 2),
        (functools.partial(tfmp.layers.GroupedQueryAttention, 4, 2, 1), 2),
    ],
    ids=lambda value: str(getattr(value, "func", value)),
)
def test_a_layer_of_tfmp_that_is_reverted_builds_as_one_of_keras(
    make, shapes, is_converted
):
    layer = make()
    if is_converted:
        tfmp.convert(layer, filter="all")
    tfmp.revert(layer)
    layer.build(*[[2, 3, 8]] * shapes)
    assert layer.built and layer.weights
    assert type(layer).__module__.startswith("keras.")
    kinds = {type(each).__module__ for each in flatten(layer).values()}
    assert not any(kind.startswith("tfmp.") for kind in kinds)


@pytest.mark.slow
def test_a_model_that_is_built_later_is_converted_whole():
    keras.utils.set_random_seed(0)
    early = models.subclassed(built=False)
    tfmp.convert(early)
    early(np.zeros([1, 6, 16]))
    late = models.subclassed()
    tfmp.convert(late)
    assert [a[1] for a in kinds(early).values()] == [
        b[1] for b in kinds(late).values()
    ]
    assert len(early.variables) == len(late.variables)


@pytest.mark.slow_but("[ours", "[scaled")
@pytest.mark.parametrize(
    ("optimizer", "how"),
    [
        ("adam", {"jit_compile": True}),
        ("scaled", {"jit_compile": False}),
        ("ours", {"run_eagerly": True}),
    ],
)
def test_a_trained_model_goes_on(optimizer, how):
    inner = keras.optimizers.Adam(0.01)
    given = {
        "adam": inner,
        "scaled": keras.optimizers.LossScaleOptimizer(inner, 2.0**10),
        "ours": LossScaleOptimizer(inner),
    }[optimizer]
    model = models.sequential()
    model.compile(given, "mse", metrics=["mae"], **how)
    jit = model.jit_compile
    first = fit(model, epochs=2)
    state = [v.numpy() for v in inner.variables]
    report = tfmp.convert(model)
    if optimizer == "adam":
        assert model.optimizer is inner
    else:
        assert isinstance(model.optimizer, LossScaleOptimizer)
        assert model.optimizer.inner_optimizer is inner
    for a, b in zip(state, inner.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert bool(report.notes) == (optimizer == "scaled")
    losses = fit(model, epochs=2)
    assert losses[-1] < first[0]
    assert model.run_eagerly == ("run_eagerly" in how)
    assert model.jit_compile == jit and "mae" in model.history.history
    assert int(inner.iterations) == 8
    assert all((v.numpy() > 0).all() for v in amax_of(model))
    tfmp.revert(model)
    fit(model)
    assert int(inner.iterations) == 10


def test_a_stock_optimizer_that_is_not_built_stays():
    model = models.sequential()
    model.compile("adam", "mse", run_eagerly=True)
    report = tfmp.convert(model)
    fit(model)
    assert type(model.optimizer) is keras.optimizers.Adam and not report.notes
    assert all((v.numpy() > 0).all() for v in amax_of(model))


def test_an_optimizer_that_scales_the_loss_itself_goes_on():
    model = models.sequential()
    first = fit(model, keras.optimizers.SGD(0.1, loss_scale_factor=8.0))
    tfmp.convert(model)
    assert fit(model)[-1] < first[0]
    assert all((v.numpy() > 0).all() for v in amax_of(model))


@pytest.mark.parametrize(
    "empty",
    [
        tfmp.PrecisionMap({}, default="float32"),
        keras.dtype_policies.DTypePolicyMap(default_policy="float32"),
    ],
    ids=["tfmp", "keras"],
)
def test_reverting_gives_back_a_map_that_names_no_layer(empty):
    keras.config.set_dtype_policy(empty)
    model = keras.Sequential([keras.Input([16]), keras.layers.Dense(16)])
    [layer] = model.layers
    before = layer.dtype_policy
    tfmp.convert(model, filter="all")
    tfmp.revert(model)
    assert layer.dtype_policy is before
    assert layer.compute_dtype == "float32"


def test_a_custom_loop_goes_on():
    model = models.sequential()
    optimizer = LossScaleOptimizer("sgd")
    optimizer.build(model.trainable_variables)
    tfmp.convert(model)
    x, _ = models.data(16)
    with tf.GradientTape() as tape:
        y = tf.cast(model(x, training=True), tf.float32)
        loss = optimizer.scale_loss(tf.reduce_mean(tf.square(y)))
    optimizer.apply(tape.gradient(loss, model.trainable_variables))
    assert optimizer.amax_history.shape[1] == len(amax_of(model)) > 0
    assert (optimizer.amax_history.numpy()[0] > 0).all()


def test_converting_twice_keeps_what_was_observed():
    model = models.functional()
    tfmp.convert(model)
    fit(model, LossScaleOptimizer("sgd"))
    amax = [v.numpy() for v in amax_of(model)]
    history = model.optimizer.amax_history.numpy()
    tfmp.convert(model)
    for a, b in zip(amax, amax_of(model), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(history, model.optimizer.amax_history)
    fit(model)


@pytest.mark.slow
def test_layers_of_tfmp_and_of_keras_are_the_same_after_it():
    outputs = []
    for module in (tfmp.layers, keras.layers):
        keras.utils.set_random_seed(0)
        layers = [module.Dense(8, "relu"), module.Dense(4)]
        model = keras.Sequential([keras.Input([6, 16]), *layers])
        tfmp.convert(model)
        x, y = models.data()
        model.compile(LossScaleOptimizer("sgd"), "mse", run_eagerly=True)
        model.fit(x, y[..., :4], verbose=0, shuffle=False)
        outputs.append(model(x))
    np.testing.assert_array_equal(*outputs)


def test_frozen_layers_stay_frozen():
    model = models.sequential()
    model.layers[0].trainable = False
    tfmp.convert(model)
    kernel = model.layers[0].kernel.numpy()
    fit(model, LossScaleOptimizer("sgd"))
    np.testing.assert_array_equal(kernel, model.layers[0].kernel)
    assert not model.layers[0].amax.numpy().any()


class Own(keras.layers.Dense):
    """Computes in its own way: FP8 would lose that."""

    def call(self, inputs):
        return 2 * super().call(inputs)


@keras.saving.register_keras_serializable("tests")
class Named(keras.layers.Dense):
    """Only has other arguments."""

    def __init__(self, size, **kwargs):
        super().__init__(4 * size, **kwargs)
        self.size = size

    def get_config(self):
        config = {"size": self.size, **super().get_config()}
        del config["units"]
        return config


def test_what_is_not_built_is_said_to_be_in_float8_once_it_is():
    model = keras.Sequential([keras.layers.Dense(16), keras.layers.Dropout(0)])
    text = str(tfmp.convert(model, filter="all"))
    assert "1 Dense (float8 once it is built), 1 Dropout (bfloat16)" in text
    model.build([2, 16])
    assert model.layers[0].recipe is not None


@keras.saving.register_keras_serializable("tests")
class OfTfmp(tfmp.layers.Dense):
    """Somebody's subclass of a layer of tfmp."""


def test_a_subclass_of_a_tfmp_layer_stays_one(tmp_path):
    model = keras.Sequential([keras.Input([16]), OfTfmp(16, name="own")])
    report = tfmp.convert(model, filter="all")
    assert [row.precision for row in report.rows] == ["float8"]
    assert type(model.layers[0]) is OfTfmp
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = keras.ops.ones([2, 16])
    assert bool(keras.ops.all(loaded(x) == model(x)))
    tfmp.revert(model)
    assert model.layers[0].recipe is None


def test_subclasses_of_a_layer(tmp_path):
    model = keras.Sequential([keras.Input([16]), Named(2), Own(4)])
    report = tfmp.convert(model)
    named, own = model.layers
    assert isinstance(named, Named) and isinstance(named, tfmp.layers.Dense)
    assert type(named).__name__ == "Named"
    assert type(own) is Own and own.compute_dtype == "bfloat16"
    assert [row.precision for row in report.rows] == ["float8", "bfloat16"]
    assert report.rows[1].reason == "Own has its own call"
    model.pop()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.ones([2, 16], "float32")
    np.testing.assert_array_equal(model(x), loaded(x))
    assert loaded.layers[0].recipe and loaded.layers[0].size == 2
    tfmp.revert(loaded)
    assert type(loaded.layers[0]) is Named


def test_a_layer_that_was_told_its_dtype_keeps_it():
    with tfmp.policy_scope("mixed_bfloat16"):
        inputs = keras.Input([16])
        x = keras.layers.Dense(16)(inputs)
        outputs = keras.layers.Dense(4, dtype="float32")(x)
        model = keras.Model(inputs, outputs)
    report = tfmp.convert(model)
    assert [row.precision for row in report.rows] == ["float8", "float32"]
    assert report.rows[1].reason == "its own dtype is float32"
    tfmp.revert(model)
    assert model.layers[1].dtype_policy.name == "mixed_bfloat16"


def test_weights_of_a_16_bit_model_are_kept():
    with tfmp.policy_scope("bfloat16"):
        model = keras.Sequential([keras.Input([16]), keras.layers.Dense(8)])
    before = model.layers[0].kernel.numpy()
    tfmp.convert(model)
    assert model.layers[0].kernel.dtype == "bfloat16"
    np.testing.assert_array_equal(before, model.layers[0].kernel)
    assert model(np.ones([2, 16])).dtype == tf.bfloat16


def new_process(code, folder):
    """Returns what a program prints that runs on its own."""
    root = pathlib.Path(models.__file__).parent.parent
    found = forked.run(code, folder=folder, path=(root, root / "tests"))
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


LOAD = """
import numpy as np, keras, tfmp

def run(name):
    model = keras.models.load_model(f"{name}.keras")
    y = np.float32(model(np.load("x.npy")))
    np.testing.assert_array_equal(y, np.load(f"{name}.npy"))
    share = tfmp.ConversionReport(model).float8_share
    print(sum("/float8/" in v.path for v in model.variables), share)

run("functional")  # All of its layers are Keras' own.
import models
run("wrapped")
"""


@pytest.mark.slow
def test_they_load_in_a_new_process(tmp_path):
    """With `import tfmp` alone, and what their own layers are in."""
    x, _ = models.data(16)
    np.save(tmp_path / "x.npy", x)
    expected = []
    for name in ("functional", "wrapped"):
        model = models.MODELS[name]()
        report = tfmp.convert(model)
        model.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", np.float32(model(x)))
        expected += [len(amax_of(model)), report.float8_share]
    assert min(expected) > 0
    printed = new_process(LOAD, tmp_path).split()
    assert list(map(float, printed[-4:])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"policy": "float9"}, ValueError),
        ({"policy": 8}, TypeError),
        ({"filter": 3}, TypeError),
        ({"filter": "("}, ValueError),
        ({"target": "h300"}, ValueError),
        ({"filter": "dense", "target": "h200"}, ValueError),
        ({"skip": ("middle",)}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"length": 1.5}, TypeError),
    ],
)
def test_bad_arguments_change_nothing(options, error):
    model = models.sequential()
    before = kinds(model)
    with pytest.raises(error, match="Received"):
        tfmp.convert(model, **options)
    assert kinds(model) == before


def test_what_is_no_model():
    for function in (tfmp.convert, tfmp.revert):
        with pytest.raises(TypeError, match="`model`"):
            function("model")
    with pytest.raises(TypeError, match="`model`"):
        tfmp.set_precision(None, "float32")


def test_the_report_as_data():
    model = models.functional()
    report = tfmp.convert(model, batch_size=8)
    data = json.loads(json.dumps(report.to_dict()))
    assert [row["path"].split("/", 1)[1] for row in data["layers"]] == [
        "shared",
        "inner/deep",
        "each/last",
    ]
    shared, deep, last = data["layers"]
    assert shared["products"] == deep["products"] == ["48 x 16 x 16"]
    assert last["products"] == ["8 x 16 x 16"] or last["flops"]
    assert shared["flops"] == 2 * deep["flops"] == 2 * 2 * 48 * 16 * 16
    assert data["float8_share"] == 1.0
    assert last["calls"] == 6  # one a time step
    assert data["float8_products"] == 3 * (2 + 1 + 6)


def test_scores_in_fp8_by_recipe():
    recipe = tfmp.recipes.DelayedScaling(attention=True)
    model = keras.Sequential([keras.Input([6, 16]), models.Block(16)])
    report = tfmp.convert(model, tfmp.Policy("mixed_float8", recipe))
    rows = [r for r in report.rows if r.type == "MultiHeadAttention"]
    assert [row.precision for row in rows] == ["float8"]
    assert report.float8_share == 1.0
    assert report.float8_products == 6 * 3 + 2 * 3


@pytest.mark.slow_but("[sequential]", "[functional]")
@every_model
def test_weights_go_both_ways(name, tmp_path):
    path = tmp_path / "x.weights.h5"
    plain, other = models.MODELS[name](), models.MODELS[name]()
    converted = models.MODELS[name]()
    tfmp.convert(converted)
    fit(converted, LossScaleOptimizer("sgd"))
    converted.optimizer = None
    converted.save_weights(path)
    plain.load_weights(path)
    tfmp.convert(other)
    other.load_weights(path)
    for model in (plain, other):
        for a, b in zip(
            models.values(converted.weights),
            models.values(model.weights),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(amax_of(converted), amax_of(other), strict=True):
        np.testing.assert_array_equal(a, b)
    plain.save_weights(path)
    converted.load_weights(path)
    assert not any(v.numpy().any() for v in amax_of(converted))
