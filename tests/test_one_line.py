"""Programs as people write them: one line of tfmp, the rest plain Keras."""

import functools
import inspect
import warnings

import fashion_mnist_data
import keras
import matplotlib
import models
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp._keras import global_notes
from tfmp.conversion import stock_layers
from tfmp.hardware import Device, Hardware
from tfmp.layers.float8_state import all_states

H200 = Hardware((Device("gpu", "NVIDIA H200", (9, 0)), Device("cpu")))


@functools.cache
def images(samples=256):
    """Returns real images, from 0 to 1, and their classes."""
    (x, y), _ = fashion_mnist_data.load(full=False)
    return (x[:samples] / 255).astype("float32"), y[:samples]


class TwoConvolutions(keras.Model):
    """The model of many tutorials."""

    def __init__(self):
        super().__init__()
        self.conv1 = keras.layers.Conv2D(16, 3, activation="relu")
        self.conv2 = keras.layers.Conv2D(32, 3, activation="relu")
        self.pool = keras.layers.MaxPooling2D(4)
        self.flatten = keras.layers.Flatten()
        self.dense = keras.layers.Dense(32, activation="relu")
        self.logits = keras.layers.Dense(10)

    def call(self, x):
        x = self.pool(self.conv2(self.conv1(x)))
        return self.logits(self.dense(self.flatten(x)))


def train(model, samples=256, epochs=6, **options):
    """Returns the accuracy on images of half the size."""
    x, y = images()
    model.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    x = x[:samples, ::2, ::2, None]
    history = model.fit(x, y[:samples], 32, epochs, verbose=0)
    return history.history["accuracy"][-1]


def one_step(model):
    train(model, samples=32, epochs=1, run_eagerly=True)


def precisions(model):
    return [row.precision for row in tfmp.ConversionReport(model).rows]


def test_configure_alone_warns_once_and_names_the_line():
    tfmp.configure(hardware=H200)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = TwoConvolutions()
        one_step(model)
    texts = [str(w.message) for w in caught if "tfmp" in str(w.message)]
    assert len(texts) == 1
    assert "tfmp.convert(model)" in texts[0] and "convert=True" in texts[0]
    assert "conv2d" in texts[0] and "bfloat16" in texts[0]
    assert set(precisions(model)) == {"bfloat16"}


@pytest.mark.slow
def test_with_convert_everything_that_can_is_in_fp8():
    keras.utils.set_random_seed(2)
    with tfmp.policy_scope("mixed_float8", convert="all"):
        model = TwoConvolutions()
    with tfmp.policy_scope("mixed_float8", convert="all"):
        assert train(model) > 0.6
    assert type(model.optimizer) is keras.optimizers.Adam
    assert precisions(model) == ["bfloat16", "float8", "float8", "float8"]
    observed = [state.amax.numpy() for state in all_states(model)]
    assert len(observed) == 3 and np.min(observed) > 0


def test_where_nothing_pays_it_says_so():
    tfmp.configure(hardware=H200, convert=True)
    with pytest.warns(UserWarning, match="stays in bfloat16") as caught:
        model = TwoConvolutions()
        one_step(model)
    assert len([w for w in caught if "tfmp" in str(w.message)]) == 1
    assert set(precisions(model)) == {"bfloat16"}


def test_where_it_pays_it_is_converted():
    tfmp.configure(hardware=H200, convert=True)
    inputs = keras.Input([2048, 2048])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x = keras.layers.Dense(8192)(inputs)
    with pytest.warns(UserWarning, match="'dense_?1?.*' stays"):
        outputs = keras.layers.Dense(8)(x)
    model = keras.Model(inputs, outputs)
    assert precisions(model) == ["float8", "bfloat16"]


def test_who_converts_is_not_warned():
    tfmp.set_global_policy("mixed_float8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = keras.Sequential([models.Block(16)])
        tfmp.convert(model)
        model.build([1, 6, 16])
        layer = tfmp.layers.MultiHeadAttention(2, 8)
        layer(tf.ones([1, 4, 8]), tf.ones([1, 4, 8]))
    global_notes.conversion_known(False)
    tfmp.set_global_policy("mixed_float8", convert=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        keras.layers.Dense(2)(tf.ones([1, 4]))


def test_layers_of_tfmp_alone_are_not_warned_of():
    global_notes.conversion_known(False)
    tfmp.set_global_policy("mixed_float8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tfmp.layers.Dense(2)(tf.ones([1, 4]))
        layer = tfmp.layers.MultiHeadAttention(2, 8)
        layer(tf.ones([1, 4, 8]), tf.ones([1, 4, 8]))
        keras.layers.LayerNormalization()(tf.ones([1, 4]))
        keras.layers.Dense(2, dtype="float32")(tf.ones([1, 4]))


def classes_of_keras():
    """Returns what Keras' layer classes hold, by identity."""
    found = [x for _, x in inspect.getmembers(keras.layers, inspect.isclass)]
    return {
        (cls, name): id(value)
        for cls in [*found, keras.Layer, keras.Model]
        for name, value in vars(cls).items()
        if not name.startswith("_abc")
    }


@pytest.mark.parametrize("how", ["scope", "failing scope", "call"])
def test_it_is_undone(how):
    before = classes_of_keras()
    if how == "call":
        tfmp.configure("mixed_float8", convert="all")
        assert classes_of_keras() != before
        tfmp.set_global_policy("float32")
    else:
        try:
            with tfmp.policy_scope("mixed_float8", convert="all"):
                keras.layers.Dense(2)(tf.ones([1, 4]))
                if how != "scope":
                    raise KeyError
        except KeyError:
            pass
    assert classes_of_keras() == before
    layer = keras.layers.Dense(2)
    layer(tf.ones([1, 4]))
    assert type(layer) is keras.layers.Dense


def test_scopes_inside_scopes():
    global_notes.conversion_known(False)
    with tfmp.policy_scope("mixed_float8", convert="all"):
        with tfmp.policy_scope("mixed_bfloat16"):
            inner = keras.layers.Dense(2)
            inner(tf.ones([1, 4]))
        with tfmp.policy_scope("mixed_float8", convert=False):
            quiet = keras.layers.Dense(2)
            quiet(tf.ones([1, 4]))
        outer = keras.layers.Dense(2)
        outer(tf.ones([1, 4]))
    assert type(inner) is type(quiet) is keras.layers.Dense
    assert type(outer) is tfmp.layers.Dense


@pytest.mark.parametrize("convert", ["yes", 1, 0, "first"])
def test_bad_convert_changes_nothing(convert):
    before = tfmp.global_policy(), stock_layers.present()
    for function in (tfmp.configure, tfmp.set_global_policy):
        with pytest.raises(ValueError, match=r"`convert`.*Received"):
            function("mixed_float8", convert=convert)
    with (
        pytest.raises(ValueError, match=r"`convert`.*Received"),
        tfmp.policy_scope("mixed_float8", convert=convert),
    ):
        pass
    assert (tfmp.global_policy(), stock_layers.present()) == before


@pytest.mark.slow
def test_a_model_of_the_scope_is_saved_and_loads_without_it(tmp_path):
    with tfmp.policy_scope("mixed_float8", convert="all"):
        model = keras.Sequential([keras.Input([6, 16]), models.Block(16)])
        model.compile("adam", "mse", run_eagerly=True)
        x, y = models.data()
        model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(x), loaded(x))
    assert precisions(loaded) == precisions(model)
    assert precisions(model).count("float8") == 6


def test_mixed_float16_with_a_plot(tmp_path):
    """A dense network on flattened images; Keras scales the loss."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    tfmp.configure("mixed_float16")
    x, y = images()
    model = keras.Sequential(
        [
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
            keras.layers.Activation("softmax", dtype="float32"),
        ]
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    history = model.fit(
        x.reshape(len(x), -1), y, 32, epochs=8, verbose=0, validation_split=0.2
    )
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert history.history["accuracy"][-1] > 0.7
    for name, values in history.history.items():
        pyplot.plot(values, label=name)
    pyplot.legend()
    pyplot.savefig(tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 1000


def test_a_custom_loop_in_mixed_bfloat16():
    tfmp.configure("mixed_bfloat16")
    x, y = images()
    model = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, dtype="float32"),
        ]
    )
    optimizer = keras.optimizers.Adam(0.003)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )
        return loss

    losses = []
    for _ in range(8):
        for batch, labels in (
            tf.data.Dataset.from_tensor_slices((x, y)).shuffle(256).batch(32)
        ):
            losses.append(float(step(batch, labels)))
    assert np.mean(losses[-8:]) < 0.4 * losses[0]
    assert model.layers[1].compute_dtype == "bfloat16"


def test_a_map_of_keras_as_global_policy():
    policies = {".*body": tfmp.Policy("mixed_float8")}
    choice = keras.dtype_policies.DTypePolicyMap("float32", policies)
    with tfmp.policy_scope(choice, convert="all"):
        model = keras.Sequential(
            [
                keras.Input([16]),
                keras.layers.Dense(16, name="body"),
                keras.layers.Dense(4, name="head"),
            ]
        )
    assert precisions(model) == ["float8", "float32"]
    tfmp.revert(model)
    assert [x.dtype_policy for x in model.layers] == [choice, choice]
