"""`Dense` and `EinsumDense`: the Keras layers, and their FP8 form."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp

WIDE = ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16"]
OPTIONS = {
    "activation": "tanh",
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": keras.regularizers.L2(1e-2),
    "bias_regularizer": keras.regularizers.L1(1e-2),
    "kernel_constraint": keras.constraints.MaxNorm(1.0),
    "bias_constraint": keras.constraints.NonNeg(),
    "trainable": True,
    "name": "mine",
}


def dense(module, **options):
    """A Dense layer of 8 units of `keras.layers` or `tfmp.layers`."""
    return module.Dense(8, **options)


def einsum_dense(module, **options):
    """An EinsumDense layer with two kernel axes in its output."""
    return module.EinsumDense(
        "...a,abc->...bc", output_shape=(4, 2), bias_axes="bc", **options
    )


MAKERS = pytest.mark.parametrize("make", [dense, einsum_dense])


def normal(*shape, seed=0):
    """Normal float32 values."""
    values = np.random.default_rng(seed).normal(size=shape)
    return tf.constant(values, tf.float32)


def gradients(layer, x):
    """Output, and gradients of inputs and all trainable variables."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        weighted = tf.cast(y, tf.float32) * normal(*y.shape[1:], seed=7)
        loss = tf.reduce_sum(weighted)
        loss += sum(tf.cast(each, tf.float32) for each in layer.losses)
    values = [x, *(v.value for v in layer.trainable_variables)]
    return y, *tape.gradient(loss, values)


@MAKERS
@pytest.mark.parametrize("policy", WIDE)
def test_without_fp8_the_layer_is_the_keras_layer(make, policy):
    both = []
    for module in (keras.layers, tfmp.layers):
        keras.utils.set_random_seed(0)
        layer = make(module, dtype=policy, **OPTIONS)
        both.append(gradients(layer, normal(16, 12)))
        assert [v.name for v in layer.weights] == ["kernel", "bias"]
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@MAKERS
def test_fp8_layer_is_near_the_keras_layer(make):
    layer = make(tfmp.layers, dtype="mixed_float8", **OPTIONS)
    plain = make(keras.layers, **OPTIONS)
    x = normal(64, 12)
    layer(x), plain(x)
    plain.set_weights(layer.get_weights())
    layer.float8.assume([4.0, 0.0, 8.0])
    y, d_x, d_kernel, d_bias = gradients(layer, x)
    exact = gradients(plain, x)
    for value, reference in zip([y, d_x, d_kernel, d_bias], exact, strict=True):
        assert tfmp.ops.sqnr(reference, tf.cast(value, tf.float32)) > 20


@MAKERS
def test_its_weights_are_those_of_the_keras_layer(make):
    layer = make(tfmp.layers, dtype="mixed_float8")
    layer.build([None, 12])
    for weights in (layer.weights, layer.trainable_variables):
        assert [v.name for v in weights] == ["kernel", "bias"]
    assert layer.non_trainable_weights == []
    assert [v.path for v in layer.non_trainable_variables] == [
        f"{layer.name}/float8/amax"
    ]
    assert layer.count_params() == 12 * 8 + 8
    np.testing.assert_array_equal(layer.amax.numpy(), [0, 0, 0])
    assert layer.amax.dtype == "float32"


EQUATIONS = [  # equation, output shape, bias axes, shape of the inputs
    ("abc,cd->abd", (None, 7), "d", (2, 5, 6)),
    ("abc,cde->abde", (None, 3, 4), "de", (2, 5, 6)),
    ("abcd,cde->abe", (None, 4), "e", (2, 5, 3, 6)),
    ("...x,xy->...y", 7, "y", (2, 3, 4, 6)),
    ("ab,bc->ac", 7, None, (5, 6)),
    ("abc,bcd->abd", (5, 3), None, (2, 5, 6)),
    ("abc,dc->adb", (7, 5), None, (2, 5, 6)),
]


@pytest.mark.slow
def test_einsum_equations():
    """All of them in one program."""
    layers, inputs, exact = [], [], []
    for equation, output_shape, bias_axes, shape in EQUATIONS:
        options = {"bias_axes": bias_axes, "bias_initializer": "ones"}
        layer, plain = (
            module.EinsumDense(equation, output_shape, dtype=dtype, **options)
            for module, dtype in (
                (tfmp.layers, "mixed_float8"),
                (keras.layers, "float32"),
            )
        )
        for each in (layer, plain):
            each.build(shape)
        plain.set_weights(layer.get_weights())
        layer.float8.assume([4.0, 0.0, 4.0])
        layers.append(layer)
        inputs.append(normal(*shape))
        exact.append(gradients(plain, inputs[-1]))

    @tf.function(jit_compile=True)
    def step(inputs):
        return [gradients(*each) for each in zip(layers, inputs, strict=True)]

    for row, found, wanted in zip(EQUATIONS, step(inputs), exact, strict=True):
        for value, reference in zip(found, wanted, strict=False):
            assert value.shape == reference.shape, row
            value = tf.cast(value, tf.float32)
            assert tfmp.ops.sqnr(reference, value) > 20, row


def test_einsum_that_is_no_product_says_so():
    layer = tfmp.layers.EinsumDense("ab,bc->c", 4, dtype="mixed_float8")
    with pytest.raises(ValueError, match="sums over 'a'"):
        layer(normal(5, 6))


@MAKERS
def test_config_round_trip(make):
    recipe = tfmp.recipes.DelayedScaling(margin=2, fp8_format="E4M3")
    policy = tfmp.Policy("mixed_float8", recipe)
    layer = make(tfmp.layers, dtype=policy, **OPTIONS)
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.recipe == recipe and copy.dtype_policy == policy


@MAKERS
@pytest.mark.parametrize("use_bias", [True, False])
def test_weights_of_a_plain_layer_load(make, use_bias, tmp_path):
    if make is einsum_dense and not use_bias:
        pytest.skip("EinsumDense has a bias by its `bias_axes`")
    bias = {} if make is einsum_dense else {"use_bias": use_bias}
    plain, low = (
        keras.Sequential([keras.Input([12]), make(module, dtype=dtype, **bias)])
        for module, dtype in (
            (keras.layers, "float32"),
            (tfmp.layers, "mixed_float8"),
        )
    )
    plain.layers[0].kernel.assign(100 * plain.layers[0].kernel)
    plain.save_weights(tmp_path / "plain.weights.h5")
    low.load_weights(tmp_path / "plain.weights.h5")
    kernel = plain.layers[0].kernel.numpy()
    np.testing.assert_array_equal(low.layers[0].kernel, kernel)
    # No scale of another kernel: this one is looked at.
    np.testing.assert_array_equal(low.layers[0].amax, [0, 0, 0])
    x = normal(64, 12)
    exact, y = (tf.cast(m(x, training=True), tf.float32) for m in (plain, low))
    assert tfmp.ops.sqnr(exact, y) > 20


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_a_file_has_not_finite_is_not_observed(bad):
    layer = tfmp.layers.Dense(4, dtype="mixed_float8")
    layer.build([None, 8])
    layer.float8.load_own_variables({"0": np.array([2.0, bad, 3.0])})
    np.testing.assert_array_equal(layer.amax, [2, 0, 3])


@MAKERS
def test_lora_trains_in_fp8(make):
    layer = make(tfmp.layers, dtype="mixed_float8", lora_rank=2, lora_alpha=4)
    model = keras.Sequential([keras.Input([12]), layer])
    assert (layer.lora_rank, layer.lora_alpha) == (2, 4)
    model.compile("sgd", "mse", run_eagerly=True)
    kernel = layer._kernel.numpy()
    x = normal(64, 12)
    y = tf.ones(model(x).shape)
    losses = [model.train_on_batch(x, y) for _ in range(20)]
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(layer._kernel, kernel)
    assert np.all(layer.amax.numpy() > 0)


@pytest.mark.parametrize(
    ("mode", "scale"),
    [
        ({"jit_compile": True}, 2.0**15),
        ({"run_eagerly": True}, 1.0),
    ],
)
def test_a_model_that_fit_builds_trains(mode, scale):
    model = keras.Sequential(
        [tfmp.layers.Dense(8, dtype="mixed_float8") for _ in range(2)]
    )
    optimizer = tfmp.optimizers.LossScaleOptimizer("sgd", initial_scale=scale)
    model.compile(optimizer, "mse", **mode)
    x = normal(64, 12)
    losses = model.fit(x, x[:, :8], epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(np.all(layer.amax.numpy() > 0) for layer in model.layers)


def test_an_inference_before_any_step_uses_the_tensors_own_scale():
    layer = tfmp.layers.Dense(8, use_bias=False, dtype="mixed_float8")
    x = normal(64, 12) * 1e-5  # Far below what the prior would keep.
    y = tf.cast(layer(x, training=False), tf.float32)
    assert tfmp.ops.sqnr(x @ layer.kernel, y) > 20


def test_policy_of_a_map_is_found_by_path():
    policies = keras.dtype_policies.DTypePolicyMap(
        keras.DTypePolicy("float32"),
        {"low": tfmp.Policy("mixed_float8", "current")},
    )
    low = tfmp.layers.Dense(4, dtype=policies, name="low")
    wide = tfmp.layers.Dense(4, dtype=policies, name="wide")
    for layer in (low, wide):
        layer.build([None, 8])
    assert low.recipe == tfmp.recipes.CurrentScaling()
    assert wide.recipe is None and wide.amax is None


@pytest.mark.parametrize("units", [0, -1, 1.5, "8"])
def test_bad_units(units):
    with pytest.raises(ValueError, match="units"):
        tfmp.layers.Dense(units, dtype="mixed_float8")


def test_unknown_policy():
    with pytest.raises(ValueError, match="mixed_float9"):
        tfmp.layers.Dense(4, dtype="mixed_float9")


@pytest.mark.parametrize("length", [16, None])
def test_a_training_step_checks_no_shape_as_it_runs(length):
    """For XLA that is a length that can change, which slows down dropout."""
    wide = {"dtype": tfmp.Policy("mixed_float8")}
    layer = tfmp.layers.Dense(16, **wide)
    layer.build([None, length, 16])

    @tf.function(input_signature=[tf.TensorSpec([None, length, 16])])
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(layer(x, training=True), tf.float32))
        return tape.gradient(loss, layer.trainable_variables)

    graph = step.get_concrete_function().graph.as_graph_def()
    nodes = [
        *graph.node,
        *(n for f in graph.library.function for n in f.node_def),
    ]
    assert "XlaCallModule" in {node.op for node in nodes}
    assert "EnsureShape" not in {node.op for node in nodes}
