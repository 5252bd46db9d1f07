"""Unit scaling: held against the reference package, and what users get."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import unit_scaling_reference as reference

import tfmp
from tfmp import unit_scaling
from tfmp._keras import training_pass

# Of `python tests/unit_scaling_reference.py`: unit-scaling 0.3.5, torch 2.14.1.
EXPECTED = {
    "loss": 2.736459,
    "logits": (0.16558, -0.1626),
    "embedding": (0.94439, 34.0327),
    "query": (0.16649, 3.5248),
    "key": (0.17749, 1.1901),
    "value": (1.05309, 19.3602),
    "attention_output": (0.99273, -17.7945),
    "up": (1.25401, 5.7207),
    "up_bias": (1.49566, 0.1638),
    "down": (1.48917, 43.2519),
    "readout": (1.04248, 14.8947),
}
TAU, WIDTH = reference.TAU, reference.WIDTH
STATIC = "mixed_float8:static"


def norm(**kwargs) -> keras.layers.Layer:
    return keras.layers.LayerNormalization(
        epsilon=1e-5, center=False, scale=False, **kwargs
    )


def block(policy: str = "float32", length: int | None = 8) -> keras.Model:
    """The block of the reference."""
    with tfmp.policy_scope(policy):
        tokens = keras.Input([length], dtype="int32")
        embedding = unit_scaling.Embedding(reference.TOKENS, WIDTH)
        x = embedding(tokens)
        y, skip = unit_scaling.ResidualSplit(TAU)(x)
        y = norm()(y)
        y = unit_scaling.MultiHeadAttention(
            reference.HEADS, WIDTH // reference.HEADS, use_bias=False, name="a"
        )(y, y, use_causal_mask=True)
        x = unit_scaling.ResidualAdd(TAU)([y, skip])
        y, skip = unit_scaling.ResidualSplit(TAU)(x)
        up = unit_scaling.Dense(reference.HIDDEN, "gelu", name="up")
        y = up(norm()(y))
        y = unit_scaling.Dense(WIDTH, use_bias=False, name="down")(y)
        x = norm()(unit_scaling.ResidualAdd(TAU)([y, skip]))
        x = unit_scaling.Dense(
            reference.TOKENS, readout=True, use_bias=False, name="head"
        )(x)
    model = keras.Model(tokens, x)
    values = reference.weights().values()
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value.reshape(variable.shape))
    return model


def test_a_block_is_that_of_the_reference():
    model = block()
    inputs, labels = reference.tokens()
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)
        loss = unit_scaling.SparseCategoricalCrossentropy()(labels, logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert float(loss) == pytest.approx(EXPECTED["loss"], rel=1e-5)
    found = {"logits": logits}
    found |= dict(zip(reference.weights(), gradients, strict=True))
    for name, value in found.items():
        digest = reference.digest(tf.convert_to_tensor(value).numpy())
        assert digest == pytest.approx(EXPECTED[name], rel=1e-4, abs=1e-3), name


def test_an_unknown_length_changes_nothing():
    inputs, _ = reference.tokens()
    fixed, any_length = block()(inputs), block(length=None)(inputs)
    np.testing.assert_allclose(any_length, fixed, rtol=1e-5, atol=1e-6)


def transformer(blocks: int, width: int, length: int) -> keras.Model:
    """Gated as in Llama; branches end with their normalization."""
    depth = 2 * blocks
    tokens = keras.Input([length], dtype="int32")
    x = unit_scaling.Embedding(64, width)(tokens)
    for index in range(depth):
        tau = unit_scaling.residual_tau(index, depth)
        y, skip = unit_scaling.ResidualSplit(tau, name=f"split{index}")(x)
        if index % 2:
            gate = unit_scaling.Dense(2 * width, "silu", name=f"gate{index}")
            up = unit_scaling.Dense(2 * width, name=f"up{index}")
            y = keras.layers.multiply([up(y), gate(y)], name=f"gated{index}")
            y = unit_scaling.Dense(width, name=f"down{index}")(y)
        else:
            layer = unit_scaling.MultiHeadAttention(
                width // 32, 32, name=f"attention{index}"
            )
            y = layer(y, y, use_causal_mask=True)
        y = norm(name=f"norm{index}")(y)
        x = unit_scaling.ResidualAdd(tau, name=f"add{index}")([y, skip])
    return keras.Model(tokens, x)


def deviations(model: keras.Model) -> dict[str, float]:
    """Returns the standard deviation of what each layer gives."""
    found: dict[str, float] = {}

    def wrap(path, layer, call):
        def measured(*args, **kwargs):
            y = call(*args, **kwargs)
            for each in keras.tree.flatten(y):
                found[path] = float(np.std(each))
            return y

        return measured

    layers = {
        each.path: each
        for each in model._flatten_layers(include_self=False)
        if not isinstance(each, keras.layers.InputLayer | keras.layers.Dropout)
    }
    random = np.random.default_rng(0)
    tokens = random.integers(0, 64, [8, *model.input_shape[1:]])
    with training_pass.around_calls(layers, wrap):
        model(tokens, training=True)
    return found


def test_every_layer_of_twelve_blocks_begins_at_1():
    keras.utils.set_random_seed(0)
    found = deviations(transformer(12, 256, 32))
    correlated = {path for path in found if "attention" in path.split("/")[-1]}
    assert len(found) == 12 * 15 + 1
    rest = {k: v for k, v in found.items() if k not in correlated}
    assert {k: v for k, v in rest.items() if abs(v - 1) > 0.1} == {}
    # Of tokens that attended before: as those of the reference.
    assert max(found[path] for path in correlated) < 32**0.5
    assert min(found[path] for path in correlated) > 0.9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_factors_of_one_direction(dtype):
    x = tf.constant([1.0, -2.0], dtype)
    for function, forward, backward in (
        (unit_scaling.scale_forward, 3.0, 1.0),
        (unit_scaling.scale_backward, 1.0, 3.0),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x, 3.0)
        gradient = tape.gradient(y, x)
        assert y.dtype == gradient.dtype == x.dtype
        assert y.numpy().tolist() == [forward, -2 * forward]
        assert gradient.numpy().tolist() == [backward, backward]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_activations_keep_a_deviation_of_1(name, dtype):
    layer = unit_scaling.Dense(1, name)
    assert layer.activation is getattr(unit_scaling, name)
    x = tf.random.stateless_normal([2**16], [0, 1])
    y = layer.activation(tf.cast(x, dtype))
    assert y.dtype == dtype
    assert float(tf.math.reduce_std(tf.cast(y, "float32"))) == pytest.approx(
        1, rel=0.06
    )


def test_other_activations_stay():
    assert unit_scaling.Dense(1, "tanh").activation is keras.activations.tanh
    assert unit_scaling.Dense(1).activation is keras.activations.linear


def test_weights_of_branches_are_those_of_the_reference():
    # unit_scaling.core.functional.transformer_residual_scaling_rule
    rule = [unit_scaling.residual_tau(index, 6) for index in range(6)]
    assert rule == pytest.approx(
        [0.57735, 0.5, 0.447214, 0.408248, 0.377964, 0.353553], abs=1e-6
    )
    rule = [unit_scaling.residual_tau(index, 4, 0.5, 2.0) for index in range(4)]
    assert rule == pytest.approx([0.447214, 0.204124, 0.4, 0.185695], abs=1e-6)


def test_gradients_of_a_branch_are_exact():
    """Its factors cancel out: the direction is that of the true gradient."""
    keras.utils.set_random_seed(0)
    up, down = unit_scaling.Dense(48, "gelu"), unit_scaling.Dense(16)
    x = tf.random.stateless_normal([8, 16], [0, 1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y, skip = unit_scaling.ResidualSplit(TAU)(x)
        y = unit_scaling.ResidualAdd(TAU)([down(up(y)), skip])
        hidden = unit_scaling.gelu(x @ up.kernel / 4)
        plain = TAU * hidden @ down.kernel / 48**0.5 + x
        plain /= (1 + TAU**2) ** 0.5
    np.testing.assert_allclose(y, plain, rtol=1e-4, atol=1e-5)
    found, true = tape.gradient(y, x), tape.gradient(plain, x)
    np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-4)


def small(policy: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    with tfmp.policy_scope(policy):
        layers = (
            unit_scaling.Dense(16, "gelu"),
            unit_scaling.Dense(4, readout=True),
        )
    return keras.Sequential([keras.Input([16]), *layers])


@pytest.mark.parametrize(
    "make", [small, pytest.param(block, marks=pytest.mark.slow)]
)
def test_fp8_without_amax(make):
    """Under the static recipe no layer has state, and the loss is near."""
    inputs, labels = reference.tokens()
    if make is small:
        inputs = tf.random.stateless_normal([16, 16], [0, 1])
        labels = np.arange(16) % 4
    losses = {}
    for policy in ("float32", STATIC):
        model = make(policy)
        model.compile(
            unit_scaling.Adam(2.0**-3, depth=2),
            unit_scaling.SparseCategoricalCrossentropy(),
        )
        fit = model.fit(inputs, labels, epochs=5, verbose=0, shuffle=False)
        losses[policy] = fit.history["loss"]
    assert not [v for v in model.variables if "float8" in v.path]
    assert losses[STATIC][-1] < 0.9 * losses[STATIC][0]
    assert losses[STATIC] != losses["float32"]
    np.testing.assert_allclose(losses[STATIC], losses["float32"], rtol=0.1)


def test_all_products_are_in_fp8():
    report = tfmp.inspect(small(STATIC))
    assert report.float8_share == 1
    attention = block(STATIC).get_layer("a")
    assert isinstance(attention.query_dense, unit_scaling.EinsumDense)
    assert attention.query_dense.recipe == tfmp.recipes.StaticScaling()


@pytest.mark.parametrize("scaled", [False, True])
def test_each_variable_has_the_rate_of_its_layer(scaled):
    """The first step of Adam is the learning rate, in every place."""
    model, (inputs, labels) = block(), reference.tokens()
    [once] = np.flatnonzero(np.bincount(inputs.flat) == 1)[:1]
    before = [v.numpy() for v in model.trainable_variables]
    optimizer = unit_scaling.Adam(2.0**-6, depth=4)
    if scaled:
        optimizer = tfmp.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=1, dynamic=False
        )
    model.compile(optimizer, unit_scaling.SparseCategoricalCrossentropy())
    model.fit(inputs, labels, batch_size=2, verbose=0)
    inside = WIDTH**-0.5 / 2
    rates = [WIDTH**-0.5, *[inside] * 5, 0.5, reference.HIDDEN**-0.5 / 2, 1]
    for variable, old, rate in zip(
        model.trainable_variables, before, rates, strict=True
    ):
        step = np.abs(variable.numpy() - old)
        step = step[once].max() if "embeddings" in variable.path else step.max()
        assert step == pytest.approx(rate / 64, rel=1e-3), variable.path


def test_rates_need_layers_with_unit_scaling():
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    model.compile(unit_scaling.Adam(), "mse")
    with pytest.raises(ValueError, match="`variables` of two axes"):
        model.train_on_batch(np.ones([1, 4]), np.ones([1, 2]))


@pytest.mark.parametrize(
    "policy", [STATIC, pytest.param("float32", marks=pytest.mark.slow)]
)
def test_a_saved_model_is_the_same(tmp_path: pathlib.Path, policy: str):
    make = small if policy == STATIC else block
    model, (inputs, labels) = make(policy), reference.tokens()
    if make is small:
        inputs = tf.random.stateless_normal([2, 16], [0, 1])
        labels = np.arange(2)
    model.compile(
        unit_scaling.AdamW(2.0**-4, depth=4, weight_decay=0.125),
        unit_scaling.SparseCategoricalCrossentropy(alpha=0.5),
    )
    model.fit(inputs, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert loaded.optimizer.depth == 4
    assert loaded.loss.alpha == 0.5
    for each in (model, loaded):  # goes on as if it had not been saved
        each.fit(inputs, labels, verbose=0)
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "layer",
    [
        unit_scaling.Dense(3, "gelu", readout=True, use_bias=False),
        unit_scaling.EinsumDense("ab,bc->ac", 3, "silu", readout=True),
        unit_scaling.Embedding(3, 5),
        unit_scaling.MultiHeadAttention(2, 3, alpha=2.0, dropout=0.5),
        unit_scaling.ResidualSplit(0.5),
        unit_scaling.ResidualAdd(0.25),
        unit_scaling.MeanSquaredError(reduction="sum"),
        unit_scaling.SparseCategoricalCrossentropy(2.0, ignore_class=0),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_config_comes_back(layer):
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    if hasattr(layer, "activation"):
        assert again.activation is layer.activation


@pytest.mark.parametrize(
    "make", [small, pytest.param(block, marks=pytest.mark.slow)]
)
def test_converted_and_reverted_layers_keep_their_factors(make):
    model, (inputs, _) = make("float32"), reference.tokens()
    if make is small:
        inputs = tf.random.stateless_normal([2, 16], [0, 1])
    expected = model(inputs).numpy()
    tfmp.convert(model, STATIC, "all")
    low = model(inputs).numpy().astype("float32")
    assert 0 < np.abs(low - expected).max() < 0.1
    tfmp.revert(model)
    np.testing.assert_array_equal(model(inputs), expected)


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy"])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_losses_are_those_of_keras_with_other_gradients(name, reduction):
    logits = tf.random.stateless_normal([4, 64, 32], [0, 1]) / 16
    labels = tf.range(256) % 32
    with tf.GradientTape() as tape:
        tape.watch(logits)
        ours = getattr(unit_scaling, name)(reduction=reduction)
        loss = ours(tf.reshape(labels, [4, 64]), logits)
    theirs = getattr(keras.losses, name)(from_logits=True, reduction=reduction)
    expected = theirs(tf.reshape(labels, [4, 64]), logits)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert np.std(tape.gradient(loss, logits)) == pytest.approx(1, rel=0.01)


def test_a_squared_error_is_that_of_keras_with_another_gradient():
    y, target = tf.random.stateless_normal([2, 64, 32], [0, 1])
    with tf.GradientTape() as tape:
        tape.watch(y)
        loss = unit_scaling.MeanSquaredError()(target, y)
    expected = keras.losses.MeanSquaredError()(target, y)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert np.std(tape.gradient(loss, y)) == pytest.approx(1, rel=0.05)


def test_scores_of_attention_are_shares():
    layer = unit_scaling.MultiHeadAttention(2, 4)
    x = tf.random.stateless_normal([1, 16, 8], [0, 1])
    _, scores = layer(x, x, return_attention_scores=True)
    np.testing.assert_allclose(np.sum(scores, -1), 1, rtol=1e-5)


def test_a_quantized_layer_has_no_factors():
    model = block()
    with pytest.raises(NotImplementedError, match="unit scaling"):
        model.get_layer("up").quantize("int8")


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: unit_scaling.Dense(2, readout=1), "`readout` must be"),
        (lambda: unit_scaling.ResidualAdd(0), "`tau` must be from"),
        (lambda: unit_scaling.residual_tau(4, 4), "`index` must be from"),
        (lambda: unit_scaling.gelu(1.0, alpha=-1), "`alpha` must be from"),
        (lambda: unit_scaling.Adam(depth=0), "`depth` must be 1 or more"),
        (lambda: unit_scaling.scale_forward(1, 2), "`x` must be floating"),
        (lambda: unit_scaling.scale_forward(1.0, 0), "`factor` must be"),
        (
            lambda: unit_scaling.MultiHeadAttention(2, 3, flash_attention=True),
            "`flash_attention` must be None or False",
        ),
    ],
)
def test_bad_values_are_named(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()
