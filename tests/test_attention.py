"""The attention layers: the Keras layers, and their FP8 form."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

import tfmp
from tfmp._keras import class_and_policy
from tfmp.layers.float8_state import all_states
from tfmp.recipes import CurrentScaling, DelayedScaling

PROJECTIONS = ["query", "key", "value", "attention_output"]
FP8_SCORES = CurrentScaling(attention=True)
# Of the inputs to FP8 layers: one shape, which is compiled once.
SHAPE = (4, 24, 32)
HEADS = (4, 24, 4, 8)


def stock(name):
    """The Keras class; the public name of one of them differs."""
    names = {"GroupedQueryAttention": "GroupQueryAttention"}
    return getattr(keras.layers, names.get(name, name))


def multi_head(ours, **options):
    """Four heads of 8."""
    cls = (
        tfmp.layers.MultiHeadAttention if ours else stock("MultiHeadAttention")
    )
    return cls(**{"num_heads": 4, "key_dim": 8, **options})


def grouped(ours, **options):
    """Four heads of 8 for queries, two for keys and values."""
    name = "GroupedQueryAttention"
    cls = getattr(tfmp.layers, name) if ours else stock(name)
    return cls(head_dim=8, num_query_heads=4, num_key_value_heads=2, **options)


MAKERS = pytest.mark.parametrize("make", [multi_head, grouped])
OPTIONS = {
    "kernel_initializer": "he_normal",
    "bias_initializer": "normal",
    "kernel_regularizer": keras.regularizers.L2(1e-2),
    "bias_regularizer": keras.regularizers.L1(1e-2),
    "activity_regularizer": keras.regularizers.L2(1e-3),
    "kernel_constraint": keras.constraints.MaxNorm(1.0),
    "bias_constraint": keras.constraints.NonNeg(),
    "name": "mine",
}


def normal(*shape, seed=0):
    """Normal float32 values."""
    values = np.random.default_rng(seed).normal(size=shape)
    return tf.constant(values, tf.float32)


def low(recipe="delayed"):
    """The policy with a recipe."""
    return tfmp.Policy("mixed_float8", recipe)


def pair(make, recipe, query, value, **options):
    """A layer in FP8 and a Keras layer in float32, of the same weights."""
    layer = make(True, dtype=low(recipe), **options)
    plain = make(False, **options)
    layer.build(query.shape, value.shape)
    plain.build(query.shape, value.shape)
    plain.set_weights(layer.get_weights())
    return layer, plain


def gradients(layer, query, value, **call):
    """Results by name: output, scores, and all gradients."""
    if not layer.built:
        layer.build(query.shape, value.shape)
    variables = layer.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch([query, value])
        outputs = layer(query, value, training=True, **call)
        y, *_ = flat = tf.nest.flatten(outputs)
        weighted = tf.cast(y, tf.float32) * normal(*y.shape[1:], seed=7)
        loss = tf.reduce_sum(weighted)
        loss += sum(tf.cast(each, tf.float32) for each in layer.losses)
    found = tape.gradient(loss, [query, value, *(v.value for v in variables)])
    names = [
        "d_query",
        "d_value",
        *(v.path.split("/", 1)[1] for v in variables),
    ]
    results = dict(zip(("output", "scores"), flat, strict=False))
    return {**results, **dict(zip(names, found, strict=True))}


def mask_of(*shape):
    """A mask that lets a random two thirds pass, and each query see key 0."""
    mask = np.random.default_rng(1).random(shape) < 0.66
    mask[..., 0] = True
    return tf.constant(mask)


STOCK_CASES = {
    "mha": (multi_head, {}, {}, "float32"),
    "mha_bfloat16": (multi_head, {}, {}, "bfloat16"),
    "mha_options": (multi_head, OPTIONS, {}, "mixed_float16"),
    "mha_sizes": (
        multi_head,
        {"value_dim": 6, "output_shape": (3, 2), "use_bias": False},
        {"use_causal_mask": True},
        "mixed_bfloat16",
    ),
    "mha_gate": (
        multi_head,
        {"use_gate": True, "sliding_window": 3, "flash_attention": False},
        {"use_causal_mask": True},
        "float16",
    ),
    "mha_dropout": (
        multi_head,
        {"dropout": 0.4, "seed": 3},
        {"attention_mask": mask_of(2, 5, 7), "return_attention_scores": True},
        "mixed_bfloat16",
    ),
    "gqa": (grouped, {}, {"use_causal_mask": True}, "float32"),
    "gqa_options": (grouped, OPTIONS, {}, "mixed_bfloat16"),
    "gqa_gate": (
        grouped,
        {"use_gate": True, "sliding_window": 3, "use_bias": False},
        {"attention_mask": mask_of(2, 5, 7)},
        "mixed_float16",
    ),
    "gqa_dropout": (
        grouped,
        {"dropout": 0.4, "seed": 3},
        {"return_attention_scores": True, "use_causal_mask": True},
        "bfloat16",
    ),
}


@pytest.mark.parametrize("case", STOCK_CASES)
def test_without_fp8_the_layer_is_the_keras_layer(case):
    make, options, call, dtype = STOCK_CASES[case]
    query, value = normal(2, 5, 12), normal(2, 7, 12, seed=1)
    both = []
    for ours in (True, False):
        keras.utils.set_random_seed(0)
        layer = make(ours, dtype=dtype, **options)
        both.append(gradients(layer, query, value, **call))
        both[-1]["losses"] = [tf.cast(x, tf.float32) for x in layer.losses]
    assert oracles.same_bits(*both)


@pytest.mark.parametrize("axes", [1, (1, 2), None])
def test_without_fp8_any_axes_are_those_of_the_keras_layer(axes):
    x = normal(2, 3, 4, 12)
    both = []
    for ours in (True, False):
        keras.utils.set_random_seed(0)
        layer = multi_head(ours, attention_axes=axes)
        both.append(gradients(layer, x, x))
    assert oracles.same_bits(*both)


@MAKERS
def test_projections_and_nothing_else_have_state(make):
    layer = make(True, dtype="mixed_float8", use_gate=True)
    layer.build([None, None, 12], [None, None, 12])
    names = {"query", "key", "value", "gate", "attention_output"}
    states = [v.path for v in layer.variables if v.name == "amax"]
    assert sorted(states) == sorted(
        f"{layer.name}/{name}/float8/amax" for name in names
    )
    plain = make(False, use_gate=True)
    plain.build([None, None, 12], [None, None, 12])
    paths = [v.path.split("/", 1)[1] for v in plain.variables]
    assert [v.path.split("/", 1)[1] for v in layer.weights] == paths
    rest = [v for v in layer.variables if v.name != "amax"]
    assert [v.path.split("/", 1)[1] for v in rest] == paths


@pytest.mark.slow_but("[value")
@MAKERS
@pytest.mark.parametrize("name", ["value", "gate", "attention_output"])
def test_each_projection_is_near_the_keras_layer(make, name):
    x = normal(*SHAPE)
    both = pair(make, "current", x, x, bias_initializer="normal", use_gate=True)
    both = [getattr(each, f"_{name.split('_')[-1]}_dense") for each in both]
    inputs = normal(*HEADS) if name == "attention_output" else x
    results = []
    for layer in both:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=True)
        values = [inputs, layer.kernel.value, layer.bias.value]
        upstream = tf.cast(normal(*y.shape, seed=3), y.dtype)
        results.append([y, *tape.gradient(y, values, upstream)])
    for actual, exact in zip(*results, strict=True):
        assert oracles.decibels(exact.numpy(), actual) > 20


@MAKERS
def test_without_fp8_scores_it_is_projections_around_keras_attention(make):
    query, value = normal(*SHAPE), normal(*SHAPE, seed=1)
    layer, _ = pair(make, "current", query, value, bias_initializer="normal")

    def projection(name, inputs):
        dense = getattr(layer, f"_{name}_dense")
        low = tfmp.ops.einsum(dense.equation, inputs, dense.kernel.value)
        return low + tf.cast(dense.bias, low.dtype)

    def expected(query, value):
        query, value = (tf.cast(t, tf.bfloat16) for t in (query, value))
        q = projection("query", query)
        k, v = (projection(name, value) for name in ("key", "value"))
        k, v = (tf.repeat(t, 4 // t.shape[2], axis=2) for t in (k, v))
        return projection("output", keras.ops.dot_product_attention(q, k, v))

    upstream = normal(*SHAPE, seed=3)
    results = [
        oracles.gradients(f, [query, value], upstream)
        for f in (lambda q, v: layer(q, v, training=True), expected)
    ]
    # Its softmax rounds elsewhere than Keras', and FP8 may then round apart.
    for actual, exact in zip(*results, strict=True):
        assert oracles.decibels(tf.cast(exact, tf.float32).numpy(), actual) > 30


# Noise powers of operands N(0, 1) in a format, and of a product of two.
NOISE = {"E4M3": 10**-3.15, "E5M2": 10**-2.56}
NEAR = 1.5  # dB: values here are not quite normal, nor noises independent


def bounds(grads):
    """Decibels of FP8 attention by noises that add up, for N(0, 1) heads.

    Logits of variance 1 have as much noise as the scores' product, and so
    have the weights; E4M3 holds all of the forward pass.
    """
    forward, backward = NOISE["E4M3"], NOISE[grads]
    weights = forward + forward
    scores_gradient = weights + (backward + forward)
    noises = {
        "output": weights + forward + forward,
        "d_query": scores_gradient + backward + forward,
        "d_key": scores_gradient + backward + forward,
        "d_value": weights + forward + backward,
    }
    return {name: -10 * np.log10(noise) for name, noise in noises.items()}


@pytest.mark.parametrize(
    "make, grads, mask",
    [
        (multi_head, "E4M3", None),
        (multi_head, "E5M2", mask_of(4, 24, 24)),
        (grouped, "E5M2", None),
    ],
    ids=["mha_E4M3", "mha_E5M2_mask", "gqa_E5M2"],
)
def test_fp8_scores_and_values_have_the_noise_of_their_format(
    make, grads, mask
):
    x = normal(*SHAPE)
    recipe = CurrentScaling(attention=True, fp8_format=("E4M3", "E4M3", grads))
    layer, plain = pair(make, recipe, x, x)
    heads = [normal(*HEADS, seed=i) for i in range(3)]
    results = []
    for each, dtype in ((layer, tf.bfloat16), (plain, tf.float32)):

        def attend(*heads, each=each):
            return each._compute_attention(*heads, mask, training=True)[0]

        cast = [tf.cast(head, dtype) for head in heads]
        upstream = normal(*HEADS, seed=4)
        results.append(oracles.gradients(attend, cast, upstream))
    pairs = zip(*results, bounds(grads).items(), strict=True)
    for actual, exact, (name, bound) in pairs:
        found = oracles.decibels(exact.numpy(), actual)
        assert bound - NEAR < found < bound + NEAR, name


# In dB: of the noises above, those that lie on the way of a result.
@pytest.mark.parametrize(
    "make, attention, use_causal_mask, floor",
    [
        (multi_head, False, False, 17),
        (multi_head, True, True, 15),
        (grouped, False, True, 17),
        (grouped, True, False, 15),
    ],
)
def test_the_whole_layer_is_near_the_keras_layer(
    make, attention, use_causal_mask, floor
):
    query, value = normal(*SHAPE), normal(*SHAPE, seed=1)
    recipe = CurrentScaling(attention=attention)
    layer, plain = pair(make, recipe, query, value, bias_initializer="normal")
    call = {"use_causal_mask": use_causal_mask}
    actual = gradients(layer, query, value, **call)
    exact = gradients(plain, query, value, **call)
    # It adds the same to all scores of a query: its gradient is zero.
    nothing, scale = actual.pop("key/bias"), exact["query/bias"]
    assert np.abs(nothing).max() < 0.1 * np.abs(scale).max()
    for name, result in actual.items():
        assert oracles.decibels(exact[name].numpy(), result) > floor, name
    assert oracles.decibels(exact["output"].numpy(), actual["output"]) > 20


def test_queries_and_keys_of_unknown_and_different_lengths():
    q, v = normal(2, 3, 16), normal(2, 5, 16)
    layer, plain = pair(multi_head, FP8_SCORES, q, v)
    inputs = [keras.Input([None, 16]) for _ in range(2)]
    model = keras.Model(inputs, layer(*inputs, use_causal_mask=True))
    assert model.output_shape == (None, None, 16)
    shape = tf.TensorSpec([None, None, 16])
    function = tf.function(lambda q, v: model([q, v]), [shape] * 2)
    exact = plain(q, v, use_causal_mask=True).numpy()
    assert oracles.decibels(exact, function(q, v)) > 20


@pytest.mark.slow
def test_a_model_that_fit_builds_trains():
    class Block(keras.Model):
        def __init__(self):
            super().__init__()
            dtype = low(DelayedScaling(attention=True))
            self.attention = multi_head(True, dtype=dtype, dropout=0.1)

        def call(self, x, training=None):
            return self.attention(x, x, training=training)

    model = Block()
    optimizer = tfmp.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=2.0**9
    )
    model.compile(optimizer, "mse", jit_compile=True)
    x = normal(32, 6, 16)
    first, *_, last = model.fit(x, x, epochs=8, verbose=0).history["loss"]
    assert last < 0.9 * first
    assert optimizer.skipped_steps.numpy() == 0
    for name in PROJECTIONS:
        dense = getattr(model.attention, f"_{name.split('_')[-1]}_dense")
        assert np.all(dense.amax.numpy() > 0)


def test_one_step_observes_every_projection():
    inputs = keras.Input([6, 16])
    layer = grouped(True, dtype="mixed_float8", use_gate=True)
    model = keras.Model(inputs, layer(inputs, inputs))
    model.compile("sgd", "mse", run_eagerly=True)
    x = normal(32, 6, 16)
    before = {v.path: v.numpy() for v in layer.trainable_variables}
    model.train_on_batch(x, x)
    states = all_states(layer)
    assert len(states) == 5
    for state in states:
        inputs_amax, kernel_amax, grads_amax = state.amax.numpy()
        path = state.variable.path
        kernel = before[path.replace("float8/amax", "kernel")]
        assert kernel_amax == np.abs(kernel).max() and grads_amax > 0
        if "attention_output" not in path:
            np.testing.assert_allclose(inputs_amax, np.abs(x).max(), rtol=2**-8)


@MAKERS
def test_masked_keys_count_for_nothing(make):
    x = normal(*SHAPE)
    layer, _ = pair(make, FP8_SCORES, x, x)
    mask = tf.constant([[[True] * 20 + [False] * 4] * 24] * 4)
    # The same values elsewhere, so that no scale changes.
    moved = tf.concat([x[:, :20], x[:, :19:-1]], axis=1)
    y, same, other = (
        layer(x, value, attention_mask=given, training=True)
        for value, given in ((x, mask), (moved, mask), (moved, None))
    )
    assert oracles.same_bits(y, same)
    assert not oracles.same_bits(y, other)


@MAKERS
@pytest.mark.parametrize("options", [{}, {"sliding_window": 2}], ids=str)
def test_nothing_flows_back_in_time(make, options):
    x = normal(*SHAPE)
    layer, _ = pair(make, FP8_SCORES, x, x, **options)
    changed = tf.concat([x[:, :20], -x[:, 20:]], axis=1)
    before, after, free = (
        layer(each, each, use_causal_mask=causal, training=True)
        for each, causal in ((x, True), (changed, True), (changed, False))
    )
    assert oracles.same_bits(before[:, :20], after[:, :20])
    assert not oracles.same_bits(before[:, 20:], after[:, 20:])
    assert not oracles.same_bits(after, free)


@MAKERS
def test_a_direct_caller_may_ask_for_a_causal_mask(make):
    x = normal(*SHAPE)
    layer, _ = pair(make, FP8_SCORES, x, x)
    heads = [normal(*HEADS, seed=i) for i in range(3)]
    mask = mask_of(4, 24, 24)
    for given, causal in ((None, True), (mask, True), (mask, False)):
        y, weights = layer._compute_attention(
            *heads,
            attention_mask=given,
            use_causal_mask=causal,
            training=True,
        )
        allowed = tf.constant(True) if given is None else given
        if causal:
            allowed &= tf.linalg.band_part(tf.ones([24, 24], tf.bool), -1, 0)
        allowed = tf.broadcast_to(allowed[..., None, :, :], [4, 1, 24, 24])
        assert np.all((weights > 0).numpy() == allowed.numpy())
        assert y.shape == HEADS


@MAKERS
def test_a_query_without_any_key_gives_the_mean_as_in_keras(make):
    x = normal(*SHAPE)
    layer, plain = pair(make, FP8_SCORES, x, x)
    mask = tf.constant([[[False] * 24] + [[True] * 24] * 23] * 4)
    results = gradients(
        layer, x, x, attention_mask=mask, return_attention_scores=True
    )
    expected = plain(x, x, attention_mask=mask)[:, 0]
    assert oracles.decibels(expected.numpy(), results["output"][:, 0]) > 20
    even = tf.cast(results["scores"], tf.float32)[:, :, 0]
    np.testing.assert_allclose(even, 1 / 24, rtol=2**-8)
    totals = tf.reduce_sum(tf.cast(results["scores"], tf.float32), axis=-1)
    np.testing.assert_allclose(totals[:, :, 1:], 1, atol=4 * 2**-9)
    assert all(np.all(np.isfinite(np.asarray(g))) for g in results.values())


def test_fp8_scores_over_any_axes():
    x = normal(2, 3, 4, 16)
    options = {"attention_axes": (1, 2), "value_dim": 6}
    layer, plain = pair(multi_head, FP8_SCORES, x, x, **options)
    actual, exact = (
        each(x, x, return_attention_scores=True) for each in (layer, plain)
    )
    for ours, theirs in zip(actual, exact, strict=True):
        assert ours.shape == theirs.shape
        assert oracles.decibels(theirs.numpy(), ours) > 20


@MAKERS
def test_dropout_falls_where_that_of_keras_does(make):
    x = normal(*SHAPE)
    layer, plain = pair(make, FP8_SCORES, x, x, dropout=0.5, seed=3)
    wide = make(False, dtype="mixed_bfloat16", dropout=0.5, seed=3)
    wide.build(x.shape, x.shape)
    wide.set_weights(plain.get_weights())
    for training in (True, False):
        y, exact = (each(x, x, training=training) for each in (layer, wide))
        exact = tf.cast(exact, tf.float32).numpy()
        assert oracles.decibels(exact, y) > 18
    assert oracles.decibels(exact, layer(x, x, training=True)) < 10


@MAKERS
def test_a_policy_map_chooses_projections(make):
    policies = keras.dtype_policies.DTypePolicyMap(
        keras.DTypePolicy("float32"), {"mine/query": low("current")}
    )
    layer = make(True, dtype=policies, name="mine")
    layer.build([None, 5, 16], [None, 5, 16])
    recipes = [child.recipe for child in (layer._query_dense, layer._key_dense)]
    assert recipes == [CurrentScaling(), None]


@MAKERS
def test_outputs_of_projections_in_the_compute_dtype(make):
    recipe = DelayedScaling(high_precision_projections=("output",))
    expected = DelayedScaling(high_precision=("output",))
    layer = make(True, dtype=low(recipe))
    layer.build([None, 5, 16], [None, 5, 16])
    children = layer._query_dense, layer._value_dense, layer._output_dense
    assert {child.recipe for child in children} == {expected}
    # By a map that says so of a part, and by one that says otherwise.
    policies = tfmp.PrecisionMap({"key": low("current")}, default=low(recipe))
    layer = make(True, dtype=policies, name="mine")
    layer.build([None, 5, 16], [None, 5, 16])
    assert layer._query_dense.recipe == expected
    assert layer._key_dense.recipe == CurrentScaling()


@MAKERS
def test_fp8_scores_and_flash_attention_exclude_each_other(make):
    layer = make(True, dtype=low(FP8_SCORES), flash_attention=True)
    with pytest.raises(ValueError, match=r"`flash_attention` must .*Received:"):
        layer.build([None, 5, 16], [None, 5, 16])
    make(True, dtype=low(), flash_attention=True).build([1, 5, 16], [1, 5, 16])


@MAKERS
@pytest.mark.parametrize("built", [True, False])
def test_a_keras_layer_becomes_ours_in_place(make, built):
    x, cls = normal(*SHAPE), type(make(True))
    results = []
    for ours in (True, False):
        keras.utils.set_random_seed(0)
        layer = make(ours, dtype=low(FP8_SCORES), name="mine")
        if built:
            layer.build(x.shape, x.shape)
        if not ours:
            class_and_policy.become(
                layer, layer.dtype_policy, class_and_policy.extended(layer, cls)
            )
            assert type(layer) is cls
        results.append(gradients(layer, x, x))
        results[-1]["paths"] = [v.path for v in layer.variables]
    paths, expected = (each.pop("paths") for each in results)
    assert paths == expected
    assert sum("float8/amax" in path for path in paths) == 4
    assert oracles.same_bits(*results)


def test_a_subclass_in_place_keeps_its_own_methods():
    class Halved(keras.layers.MultiHeadAttention):
        def call(self, query, value, **options):
            return 0.5 * super().call(query, value, **options)

    x = normal(*SHAPE)
    layer = Halved(4, 8, dtype=low("current"))
    class_and_policy.become(
        layer,
        layer.dtype_policy,
        class_and_policy.extended(layer, tfmp.layers.MultiHeadAttention),
    )
    whole = tfmp.layers.MultiHeadAttention(4, 8, dtype=low("current"))
    whole.build(x.shape, x.shape)
    layer.build(x.shape, x.shape)
    layer.set_weights(whole.get_weights())
    assert len(all_states(layer)) == 4
    twice = 2 * layer(x, x, training=True)
    assert oracles.same_bits(twice, whole(x, x, training=True))


@MAKERS
def test_config_round_trip(make):
    recipe = DelayedScaling(margin=2, attention=True)
    extra = {"sliding_window": 3, "use_gate": True, "dropout": 0.2, "seed": 4}
    extra |= {"use_bias": False}
    if make is multi_head:
        extra |= {"value_dim": 6, "output_shape": (3,), "attention_axes": (1,)}
    layer = make(True, dtype=low(recipe), **OPTIONS, **extra)
    config = layer.get_config()
    assert {name: config[name] for name in extra} == extra
    copy = type(layer).from_config(config)
    assert copy.get_config() == config
    assert copy.recipe == recipe and copy.dtype_policy == low(recipe)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert type(again) is type(layer) and again.get_config() == config


def model_of(make, ours, **options):
    """A functional model of one causal layer with a gate."""
    inputs = keras.Input([None, 16])
    layer = make(ours, use_gate=True, name="mine", **options)
    return keras.Model(inputs, layer(inputs, inputs, use_causal_mask=True))


@MAKERS
def test_keras_file_keeps_weights_and_state(make, tmp_path):
    model = model_of(make, True, dtype=low(DelayedScaling(attention=True)))
    amax = [[1.0, 2.0, 3.0 + number] for number in range(5)]
    for state, each in zip(all_states(model), amax, strict=True):
        state.assume(each)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("mine")) is type(model.get_layer("mine"))
    assert loaded.get_layer("mine").recipe == DelayedScaling(attention=True)
    found = [state.amax.numpy() for state in all_states(loaded)]
    np.testing.assert_array_equal(found, amax)
    assert oracles.same_bits(model.get_weights(), loaded.get_weights())


@MAKERS
def test_weights_files_of_keras_load_and_back(make, tmp_path):
    low_model = model_of(make, True, dtype=low())
    plain, again = (model_of(make, False) for _ in range(2))
    plain.save_weights(tmp_path / "plain.weights.h5")
    for state in all_states(low_model):
        state.assume([1.0, 2.0, 3.0])
    low_model.load_weights(tmp_path / "plain.weights.h5")
    states = [state.amax.numpy() for state in all_states(low_model)]
    np.testing.assert_array_equal(states, np.zeros([5, 3]))
    assert oracles.same_bits(plain.get_weights(), low_model.get_weights())
    low_model.save_weights(tmp_path / "low.weights.h5")
    again.load_weights(tmp_path / "low.weights.h5")
    assert oracles.same_bits(plain.get_weights(), again.get_weights())
