"""tfmp.layers.Conv1D, Conv2D, Conv3D: the Keras layers, on FP8 operands."""

import keras
import ml_dtypes
import numpy as np
import oracles
import pytest
import tensorflow as tf

import tfmp
from tfmp import layers, ops, recipes
from tfmp._core.observations import SEEN, TURN

LENGTHS = (9, 8, 7)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LAYERS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
KERAS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
E4M3 = recipes.DelayedScaling(fp8_format="E4M3")


def inputs(rank, channels=16, seed=0, batch=2):
    shape = batch, *LENGTHS[:rank], channels
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def whole(*shape):
    values = np.random.default_rng(3).integers(-4, 5, shape)
    return values.astype("float32")


def built(layer, channels=16):
    layer.build((None, *LENGTHS[: layer.rank], channels))
    return layer


def step(layer, x, **kwargs):
    """Returns outputs and the gradients of inputs and trainable variables."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **kwargs)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    return y, *tape.gradient(loss, [x, *layer.trainable_variables])


CASES = [
    (1, {"padding": "causal", "dilation_rate": 2, "activation": "relu"}),
    (1, {"padding": "same", "strides": 2, "use_bias": False}),
    (2, {"padding": "same", "activation": "gelu"}),
    (2, {"strides": (2, 1), "groups": 2}),
    (3, {"kernel_size": 2, "activation": "tanh"}),
]


def make(classes, rank, kwargs, **more):
    return classes[rank](**({"filters": 32, "kernel_size": 3} | kwargs | more))


@pytest.mark.parametrize(("rank", "kwargs"), CASES)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_without_a_recipe_it_is_the_keras_layer(rank, kwargs, policy):
    ours = built(make(LAYERS, rank, kwargs, dtype=policy))
    stock = built(make(KERAS, rank, kwargs, dtype=policy))
    stock.set_weights(ours.get_weights())
    x = inputs(rank)
    assert oracles.same_bits(step(ours, x), step(stock, x))
    assert len(ours.variables) == len(stock.variables)
    assert ours.recipe is None and ours.amax is None


@pytest.mark.parametrize(("rank", "kwargs"), CASES)
def test_on_whole_numbers_it_is_the_keras_layer(rank, kwargs):
    """Kernel, inputs, outputs and gradients that FP8 and bfloat16 hold."""
    kwargs = {k: v for k, v in kwargs.items() if k != "activation"}
    ours = built(make(LAYERS, rank, kwargs, filters=16, dtype="mixed_float8"))
    stock = built(make(KERAS, rank, kwargs, filters=16, dtype="float32"))
    weights = [whole(*w.shape) for w in stock.get_weights()]
    weights[0] *= np.random.default_rng(0).random(weights[0].shape) < 0.02
    stock.set_weights(weights)
    for variable, value in zip(stock.variables, weights, strict=True):
        next(v for v in ours.variables if v.name == variable.name).assign(value)
    x = whole(2, *LENGTHS[:rank], 16)
    np.testing.assert_array_equal(
        tf.cast(ours(x, training=False), tf.float32), stock(x)
    )


@pytest.mark.parametrize(("rank", "kwargs"), CASES)
def test_it_is_the_operator_a_bias_and_an_activation(rank, kwargs):
    layer = built(make(LAYERS, rank, kwargs, dtype="mixed_float8"))
    layer.float8.assume([3.0, 0.5, 4.0])
    if layer.use_bias:
        layer.bias.assign(whole(32))
    x = inputs(rank).astype(BFLOAT16)
    assumed = layer.amax
    y, dx, *gradients = step(layer, x, training=True)

    def reference(x, kernel, amax):
        y = ops.conv(
            x,
            kernel,
            layer.strides,
            layer.padding,
            dilation_rate=layer.dilation_rate,
            recipe="delayed",
            amax=amax,
        )
        if layer.use_bias:
            y += tf.cast(layer.bias, tf.bfloat16)
        return layer.activation(y)

    upstream = 2 * tf.cast(y, tf.float32)
    expected = oracles.gradients(
        reference,
        [x, layer.kernel.value, assumed],
        tf.cast(upstream, tf.bfloat16),
    )
    found = dict(
        zip([v.name for v in layer.trainable_variables], gradients, strict=True)
    )
    seen = layer.float8.variable.value[SEEN]
    actual = [y, dx, found["kernel"], seen]
    assert oracles.same_bits(actual, expected)
    in_float8 = layer.float8_products(x.shape)["output"] is None
    assert np.all(seen.numpy() > 0) == in_float8


def test_recipe_is_of_one_format():
    """So the optimizer and the monitor see it too."""
    policy = tfmp.Policy(
        "mixed_float8", recipe=recipes.DelayedScaling(margin=1)
    )
    layer = built(layers.Conv2D(16, 3, dtype=policy))
    expected = recipes.DelayedScaling(margin=1, fp8_format="E4M3")
    assert layer.recipe == expected
    assert layer.float8.recipe == expected
    assert built(layers.Conv2D(16, 3, dtype="mixed_float8")).recipe == E4M3


def test_kernel_is_quantized_from_its_own_dtype():
    """1 + 2**-8 rounds down in bfloat16; above it lies the tie of E4M3."""
    layer = layers.Conv1D(1, 1, use_bias=False, dtype="mixed_float8")
    layer.build((None, 4, 16))
    value = np.zeros((1, 16, 1), "float32")
    value[0, 0] = 1.0625 + 2.0**-10
    layer.kernel.assign(value)
    y = layer(tf.ones([1, 4, 16]), training=False)
    assert np.all(y.numpy().astype("float32") == 1.125)


def test_without_fp8_products_it_computes_in_the_compute_dtype():
    """Depthwise: no role is quantized, none observed."""
    kwargs = {"filters": 16, "kernel_size": 3, "groups": 16}
    ours = built(layers.Conv2D(**kwargs, dtype="mixed_float8"))
    stock = built(keras.layers.Conv2D(**kwargs, dtype="mixed_bfloat16"))
    stock.set_weights([ours.kernel.numpy(), ours.bias.numpy()])
    x = inputs(2)
    y, dx, *_ = step(ours, x, training=True)
    for one, other in zip((y, dx), step(stock, x), strict=False):
        one, other = (t.numpy().astype("float32") for t in (one, other))
        np.testing.assert_allclose(one, other, rtol=2**-6, atol=2**-6)
    assert not ours.float8.variable.numpy()[:TURN].any()
    assert None not in ours.float8_products(x.shape).values()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_float8_products(data_format):
    layer = layers.Conv2D(10, 3, data_format=data_format)
    first = data_format == "channels_first"
    shape = (None, 16, 8, None) if first else (None, 8, None, 16)
    assert layer.float8_products(shape) == {
        "output": None,
        "input_grad": "filters / groups = 10 is not a multiple of 16",
        "kernel_grad": None,
    }


def test_channels_first():
    kwargs = {"filters": 16, "kernel_size": 3, "dtype": "mixed_float8"}
    last = built(layers.Conv2D(**kwargs))
    first = layers.Conv2D(**kwargs, data_format="channels_first")
    first.build((None, 16, *LENGTHS[:2]))
    for one, other in zip(first.variables, last.variables, strict=True):
        one.assign(other)
    x = inputs(2)
    y = first(np.moveaxis(x, -1, 1))
    assert oracles.same_bits(np.moveaxis(y.numpy(), 1, -1), last(x))


def test_frozen():
    """Current scaling: what the state says is not asked."""
    layer = built(layers.Conv2D(16, 3, use_bias=False, dtype="mixed_float8"))
    layer.float8.assume([1e-3, 1e-3, 1e-3])
    layer.trainable = False
    x = inputs(2).astype(BFLOAT16)
    expected = ops.conv(x, layer.kernel.value, recipe="current_e4m3")
    assert oracles.same_bits(layer(x), expected)


def test_lora():
    layer = built(layers.Conv2D(16, 3, dtype="mixed_float8"))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    names = [v.name for v in layer.trainable_variables]
    x = inputs(2)
    _, _, *gradients = step(layer, x, training=True)
    assert {"lora_kernel_a", "lora_kernel_b"} <= set(names)
    assert np.all(layer.amax.numpy() > 0)
    for name, gradient in zip(names, gradients, strict=True):
        assert np.any(gradient.numpy()), name


def test_config_round_trip():
    policy = tfmp.Policy(
        "mixed_float8", recipe=recipes.DelayedScaling(margin=2)
    )
    layer = layers.Conv1D(
        8,
        kernel_size=4,
        strides=1,
        padding="causal",
        data_format="channels_first",
        dilation_rate=3,
        groups=2,
        activation="relu",
        use_bias=False,
        kernel_initializer="he_normal",
        name="heard",
        dtype=policy,
    )
    config = keras.saving.serialize_keras_object(layer)
    other = keras.saving.deserialize_keras_object(config)
    assert type(other) is layers.Conv1D
    assert other.get_config() == layer.get_config()
    assert (
        other.recipe
        == layer.recipe
        == E4M3.__class__(fp8_format="E4M3", margin=2)
    )


def model_of(policy):
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(
                16, 3, padding="same", activation="relu", dtype=policy
            ),
            layers.Conv2D(32, 3, strides=2, padding="same", dtype=policy),
            layers.Conv2D(16, 1, dtype=policy),
            keras.layers.GlobalAveragePooling2D(),
            tfmp.layers.Dense(4, dtype="float32"),
        ]
    )


@pytest.fixture(scope="module")
def trained():
    """A model of unknown lengths, trained on one."""
    model = model_of("mixed_float8")
    model.compile(
        tfmp.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.05), initial_scale=1, dynamic=False
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    y = np.arange(32) % 4
    x = 0.1 * inputs(2, 3, batch=32)[:, :8] + (y - 1.5)[:, None, None, None]
    losses = [model.train_on_batch(x, y) for _ in range(5)]
    return model, x, losses


@pytest.mark.slow
def test_training(trained):
    model, _, losses = trained
    assert losses[-1] < 0.9 * losses[0]
    first, second, third = model.layers[:3]
    # Three channels have no FP8 kernel; but their gradient's product has.
    assert first.amax.numpy()[0] == 0
    assert np.all(first.amax.numpy()[1:] > 0)
    assert np.all(second.amax.numpy() > 0) and np.all(third.amax.numpy() > 0)


def test_float8_is_near_bfloat16(trained):
    model, x, _ = trained
    stock = model_of("mixed_bfloat16")
    for ours, plain in zip(model.layers, stock.layers, strict=True):
        for variable in plain.variables:
            variable.assign(
                next(v for v in ours.variables if v.name == variable.name)
            )
    reference = stock(x).numpy().astype("float64")
    assert oracles.decibels(reference, model(x, training=False)) > 20
