"""What goes wrong in Keras' float8, and must not here; one test a fault.

The numbers are those of the table in docs/internals/keras.md.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf

import tfmp

INPUTS, KERNEL, GRADS = range(3)
DELAYED = tfmp.recipes.DelayedScaling()


def static(inner="sgd"):
    """The optimizer as one uses it with bfloat16: it scales by 1."""
    return tfmp.optimizers.LossScaleOptimizer(
        inner, initial_scale=1.0, dynamic=False
    )


def data(rows=64, width=16, seed=0, scale=1.0):
    """Inputs and the sum of their columns."""
    generator = np.random.default_rng(seed)
    x = scale * generator.normal(size=(rows, width)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def model_of(*layers, optimizer=None, **options):
    """A compiled Sequential model on inputs of width 16."""
    model = keras.Sequential([keras.Input([16]), *layers])
    model.compile(optimizer or static(), "mse", **options)
    return model


def dense(units=8, **options):
    """A tfmp layer under `mixed_float8`."""
    return tfmp.layers.Dense(units, dtype="mixed_float8", **options)


def test_fault_1_trains_eagerly():
    model = model_of(dense(), dense(1), run_eagerly=True)
    losses = model.fit(*data(), epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("frequency", [None, 2])
def test_fault_2_moving_averages_of_weights(frequency):
    inner = keras.optimizers.SGD(
        0.01, use_ema=True, ema_overwrite_frequency=frequency
    )
    model = model_of(dense(), dense(1), optimizer=static(inner))
    x, y = data()
    model.fit(x, y, epochs=2, verbose=0)
    # What the last step observed, not an average of anything.
    np.testing.assert_array_equal(
        model.layers[0].amax.numpy()[INPUTS],
        np.abs(x).max().astype(tf.bfloat16.as_numpy_dtype),
    )


@pytest.mark.parametrize("optimizer", ["sgd", static])
def test_fault_3_scales_of_a_shared_layer_do_not_grow(optimizer):
    shared = dense(16)
    inputs = keras.Input([16])
    model = keras.Model(inputs, dense(1)(shared(shared(inputs))))
    optimizer = optimizer if isinstance(optimizer, str) else optimizer()
    model.compile(optimizer, "mse", jit_compile=True)
    x, y = data()
    seen = []
    for _ in range(150):  # Keras' loss is not finite at about step 135.
        assert np.isfinite(model.train_on_batch(x, 0 * y))
        seen.append(shared.amax.numpy())
    true_amax = np.abs(shared.kernel.numpy()).max()
    assert 0.9 * true_amax <= seen[-1][KERNEL] <= 1.1 * true_amax
    assert max(row[INPUTS] for row in seen) <= 3 * seen[0][INPUTS]


@pytest.mark.slow_but("[mode1]")
@pytest.mark.parametrize(
    "mode", [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": 1}]
)
def test_fault_4_scales_move_inside_time_distributed(mode):
    inner = dense(1)
    model = keras.Sequential(
        [keras.Input([6, 16]), keras.layers.TimeDistributed(inner)]
    )
    model.compile(static(), "mse", **mode)
    x = np.random.default_rng(0).normal(size=(64, 6, 16)).astype("float32")
    for scale in (1.0, 100.0):
        model.fit(scale * x, x[..., :1], epochs=1, verbose=0)
        each = np.abs(scale * x).max(axis=(0, 2))
        seen = inner.amax.numpy()[INPUTS]
        assert seen == pytest.approx(each.max(), rel=0.01)


def test_fault_5_a_frozen_layer_scales_by_its_tensors():
    layer = dense(8, use_bias=False)
    model = model_of(layer, dense(1))
    x, y = data()
    model.fit(x, y, verbose=0)
    layer.trainable = False
    model.compile(static(), "mse")
    for scale in (1e-4, 1e4):  # With the scales of x, nothing would be left.
        outputs = layer(scale * x, training=True)
        exact = scale * x @ layer.kernel.numpy()
        assert tfmp.ops.sqnr(exact, tf.cast(outputs, tf.float32)) > 20


def test_fault_6_stock_layers_run_under_the_global_policy():
    tfmp.set_global_policy("mixed_float8", convert=False)
    model = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Reshape([36, 4]),
            keras.layers.LSTM(4),
            tfmp.layers.Dense(1),
        ]
    )
    model.compile(static(), "mse")
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3))
    history = model.fit(x, np.ones([8, 1]), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert model.layers[0].compute_dtype == "bfloat16"


@pytest.mark.parametrize("magnitude", [1e-6, 1e-4, 1e-2, 1.0, 1e2])
def test_fault_7_step_0_keeps_small_gradients(magnitude):
    x, _ = data(128)
    upstream = np.random.default_rng(1).normal(size=(128, 8)) * magnitude
    gradients = []
    for dtype in ("mixed_float8", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        layer = tfmp.layers.Dense(8, use_bias=False, dtype=dtype)
        with tf.GradientTape() as tape:
            y = tf.cast(layer(x, training=True), tf.float32)
            loss = tf.reduce_sum(y * upstream)
        gradients.append(tape.gradient(loss, layer.kernel.value).numpy())
    low, wide = gradients
    assert np.all((low != 0) | (wide == 0))
    assert tfmp.ops.sqnr(wide, low) > 15


def test_fault_7_every_scale_is_observed_after_one_step():
    layer, last = dense(), dense(1)
    model = model_of(layer, last)
    assert layer.amax.numpy()[INPUTS] == 0  # Not observed yet.
    x, y = data()
    model.fit(x, y, batch_size=len(x), verbose=0)
    for each in (layer, last):
        assert np.all(each.amax.numpy() > 0)
    # One step of lag: the next scale comes from this very batch.
    np.testing.assert_allclose(
        layer.amax.numpy()[INPUTS], np.abs(x).max(), rtol=2**-8
    )
    np.testing.assert_allclose(
        last.amax.numpy()[GRADS],
        np.abs(2 / len(x) * (model_step_error(model, x, y))).max(),
        rtol=0.25,
    )


def model_step_error(model, x, y):
    """Error of the prediction; the step before it has hardly moved it."""
    return model.predict(x, verbose=0).astype("float32") - y


@pytest.mark.parametrize("optimizer", ["sgd", static])
def test_fault_8_an_infinite_activation_freezes_no_scale(optimizer):
    layer = dense()
    optimizer = optimizer if isinstance(optimizer, str) else optimizer()
    model = model_of(layer, dense(1), optimizer=optimizer, jit_compile=True)
    x, y = data()
    model.train_on_batch(x, y)
    bad = x.copy()
    bad[0, 0] = np.inf
    model.train_on_batch(bad, y)
    for _ in range(2):
        model.train_on_batch(x, y)
    np.testing.assert_allclose(
        layer.amax.numpy()[INPUTS], np.abs(x).max(), rtol=2**-8
    )
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())


@pytest.mark.parametrize("magnitude", [2.0**-12, 1e-3, 1.0, 30.0])
def test_fault_9_float16_has_room_for_every_scale(magnitude):
    x = tf.cast(tf.random.stateless_normal([32, 16], [0, 1]), tf.float16)
    w = tf.cast(tf.random.stateless_normal([16, 8], [0, 2]), tf.float16)
    x, w = x * magnitude, w * magnitude
    amax = tf.stack([tfmp.ops.amax(x), tfmp.ops.amax(w), 1.0])
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = tfmp.ops.matmul(x, w, recipe=DELAYED, amax=amax)
        loss = tf.reduce_sum(tf.cast(y, tf.float32))
    d_x, d_w = tape.gradient(loss, [x, w])
    wide = [tf.cast(t, tf.float32) for t in (x, w)]
    ones = tf.ones([32, 8])
    exact = [
        wide[0] @ wide[1],
        tf.matmul(ones, wide[1], transpose_b=True),
        tf.matmul(wide[0], ones, transpose_a=True),
    ]
    for value, reference in zip([y, d_x, d_w], exact, strict=True):
        if np.abs(reference).max() > 2.0**-14:  # float16's normal range
            assert tfmp.ops.sqnr(reference, tf.cast(value, tf.float32)) > 15


def test_fault_15_stock_layers_load_under_the_policy(tmp_path):
    recipe = tfmp.recipes.DelayedScaling(margin=1, amax_history_len=4)
    policy = tfmp.Policy("mixed_float8", recipe)
    with tfmp.policy_scope(policy, convert=False):
        model = keras.Sequential(
            [
                keras.Input([8, 8, 3]),
                keras.layers.Conv2D(4, 3),
                keras.layers.Flatten(),
                tfmp.layers.Dense(2),
            ]
        )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for copy in (loaded, keras.models.clone_model(model)):
        assert [layer.dtype_policy for layer in copy.layers] == [policy] * 3
    x = np.ones([1, 8, 8, 3])
    np.testing.assert_array_equal(model(x), loaded(x))


def steps_of_two_replicas():
    """Pairs of steps, what it was that came between, and the later one."""
    steps = replicas.mirrored(2, "steps")["steps"]
    return list(zip(replicas.KINDS, steps, steps[1:], strict=False))


def test_fault_10_replicas_share_their_amax():
    for (kind, _), _, after in steps_of_two_replicas()[:3]:
        seen = np.asarray(after["local"]["observed"])
        assert kind == "good" and seen[0, INPUTS] != seen[1, INPUTS]
        amax = "sequential/first/float8/amax"
        assert len(set(after["hashes"][amax])) == 1
        newest = after["state"]["loss_scale_optimizer/amax_history"][0][0]
        assert newest[INPUTS] == seen[:, INPUTS].max()


def test_fault_11_a_bad_gradient_on_any_replica_skips_the_step_on_all():
    skipped = set()
    for (kind, row), before, after in steps_of_two_replicas():
        if kind == "gradient":
            finite = np.isfinite(after["local"]["gradient"]).all(axis=1)
            assert sorted(finite) == [False, True]
            skipped.add(row // 8)
        for path, found in after["hashes"].items():
            if path.endswith(("kernel", "bias", "momentum", "sgd/iteration")):
                same = before["hashes"][path] == found
                assert same == (kind != "good") and len(set(found)) == 1, path
    assert skipped == {0, 1}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_float8"])
def test_fault_12_the_loss_scale_has_a_floor_and_a_ceiling(policy):
    layer = tfmp.layers.Dense(1, dtype=policy)
    optimizer = tfmp.optimizers.LossScaleOptimizer(
        "sgd", initial_scale=4.0, bounds=(1.0, 2.0**10), growth_steps=1
    )
    model = model_of(layer, optimizer=optimizer, jit_compile=False)
    x, y = data(scale=2.0**-6)
    kernel, seen = layer.kernel.numpy(), []
    for batch in (x * np.nan, x, x * np.nan, x):
        for _ in range(30):  # Keras' scale is zero after 150, inf after 113.
            model.train_on_batch(batch, y)
            seen.append(float(optimizer.dynamic_scale))
    assert (min(seen), max(seen)) == (1.0, 2.0**10)
    assert seen[29::30] == [1.0, 2.0**10, 1.0, 2.0**10]
    assert np.isfinite(layer.kernel.numpy()).all()
    assert (layer.kernel.numpy() != kernel).any()


def float16_model(policy, optimizer="sgd", auto_scale_loss=True):
    """A stock model, one layer of which computes in float16."""
    layers = [keras.layers.Dense(8), keras.layers.Dense(1, dtype="float32")]
    if isinstance(policy, str):
        with tfmp.policy_scope(policy):
            layers[0] = keras.layers.Dense(8)
    else:
        layers[0] = keras.layers.Dense(8, dtype=policy)
    model = keras.Sequential([keras.Input([16]), *layers])
    model.compile(
        optimizer, "mse", jit_compile=False, auto_scale_loss=auto_scale_loss
    )
    return model


@pytest.mark.parametrize(
    "policy", ["float16", "mixed_float16", tfmp.Policy("float16")], ids=repr
)
def test_fault_14_every_float16_form_is_scaled_also_after_reload(
    policy, tmp_path
):
    model = float16_model(policy)
    x, y = data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, again):
        assert type(each.optimizer) is tfmp.optimizers.LossScaleOptimizer
        assert float(each.optimizer.dynamic_scale) > 1
    skipped = model.optimizer.statistics["skipped_steps"]
    assert int(again.optimizer.iterations) + skipped == 2
    before = model.optimizer.statistics
    assert again.optimizer.statistics == before
    again.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    ("optimizer", "auto_scale_loss"),
    [("sgd", False), (static, True), (static, False)],
)
def test_fault_14_what_was_switched_off_stays_off(
    optimizer, auto_scale_loss, tmp_path
):
    optimizer = optimizer if isinstance(optimizer, str) else optimizer()
    model = float16_model("mixed_float16", optimizer, auto_scale_loss)
    model.fit(*data(), verbose=0)
    for _ in range(2):  # Twice: the first reload writes the second file.
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert type(again.optimizer) is type(model.optimizer)
        for old, new in zip(
            model.optimizer.variables, again.optimizer.variables, strict=True
        ):
            np.testing.assert_array_equal(old, new)
        model = again


def test_fault_14_a_conversion_to_float16_scales_the_loss_too():
    model = float16_model(tfmp.Policy("float32"))
    model.fit(*data(), verbose=0)
    inner = model.optimizer
    report = tfmp.set_precision(model, {"dense.*": "mixed_float16"})
    assert "float16" in str(report.notes)
    assert model.optimizer.inner_optimizer is inner
    model.fit(*data(), verbose=0)
    skipped = model.optimizer.statistics["skipped_steps"]
    assert int(model.optimizer.iterations) + skipped == 4


def test_fault_14_a_conversion_scales_no_loss_that_must_not_be():
    model = float16_model(tfmp.Policy("float32"), auto_scale_loss=False)
    tfmp.set_precision(model, {"dense.*": "mixed_float16"})
    assert type(model.optimizer) is keras.optimizers.SGD


class Pair(keras.Model):
    """A model with a `compile` of its own, as of two optimizers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def compile(self, first, second):
        super().compile(first, "mse", jit_compile=False)
        self.second = second


def test_fault_14_a_model_with_a_compile_of_its_own():
    model = Pair()
    model.build([None, 16])
    model.compile("sgd", "adam")
    tfmp.set_precision(model, {".*": "mixed_float16"})
    assert type(model.optimizer) is tfmp.optimizers.LossScaleOptimizer
    model.fit(*data(), verbose=0)
    assert model.second == "adam"


def test_fault_12_a_scale_above_all_bounds_is_brought_back_by_convert():
    model = float16_model(keras.DTypePolicy("mixed_bfloat16"))
    model.compile(keras.optimizers.LossScaleOptimizer(model.optimizer), "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(np.inf)
    tfmp.convert(model)
    assert model.optimizer.statistics["loss_scale"] == 2.0**24


def test_fault_14_other_models_are_left_alone():
    for policy in (tfmp.Policy("mixed_bfloat16"), keras.DTypePolicy("float16")):
        assert type(float16_model(policy).optimizer) is keras.optimizers.SGD
    own = keras.optimizers.SGD(loss_scale_factor=8.0)
    assert float16_model("float16", own).optimizer is own


@pytest.mark.parametrize("jit_compile", [True, False])
def test_fault_13_a_skipped_step_leaves_the_moving_averages_alone(jit_compile):
    normalized = tfmp.layers.BatchNormalization(dtype="mixed_float8")
    model = model_of(normalized, dense(1), jit_compile=jit_compile)
    x, y = data()
    model.train_on_batch(x, y)
    before = model.get_weights()
    bad = x.copy()
    bad[0, 0] = np.inf
    # An infinity forwards; and a finite batch whose gradients overflow.
    for skipped, batch in enumerate([(bad, y), (2 * x, y * 1e30)], 1):
        model.train_on_batch(*batch)
        assert model.optimizer.skipped_steps.numpy() == skipped
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    model.train_on_batch(x, y)
    for old, new in zip(before[2:4], model.get_weights()[2:4], strict=True):
        assert np.all(np.isfinite(new)) and np.all(old != new)


@pytest.mark.filterwarnings("ignore:In the future `np.object`")
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_fault_17_fp8_layers_are_exported_without_fp8(suffix, tmp_path):
    for package in {
        "tflite": ["ai_edge_litert"],
        "onnx": ["tf2onnx", "onnxruntime"],
    }[suffix]:
        pytest.importorskip(package)
    model = keras.Sequential([keras.Input([16]), dense(8, activation="relu")])
    path, format = tmp_path / f"m.{suffix}", {"tflite": "litert"}
    report = tfmp.export(model, path, format.get(suffix, suffix))
    assert 20 < report.sqnr < 60 and report.conversion_sqnr > 90
    assert b"XlaCallModule" not in path.read_bytes()
    assert model.layers[0].recipe == DELAYED


@pytest.mark.parametrize("compiled", [True, False])
def test_fault_19_clipping_in_a_custom_loop_leaves_scales_alone(compiled):
    model = model_of(dense(), dense(1))
    x, y = data(scale=100.0)
    optimizer = static(keras.optimizers.SGD(1.0))
    optimizer.build(model.trainable_variables)

    def step():
        with tf.GradientTape() as tape:
            error = tf.cast(model(x, training=True), tf.float32) - y
            loss = optimizer.scale_loss(tf.reduce_mean(tf.square(error)))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1e-3)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    before = model.get_weights()
    (tf.function(step) if compiled else step)()
    moved = [b - a for a, b in zip(before, model.get_weights(), strict=True)]
    norm = np.sqrt(sum(np.square(m).sum() for m in moved))
    np.testing.assert_allclose(norm, 1e-3, rtol=1e-3)
    np.testing.assert_allclose(
        model.layers[0].amax.numpy()[INPUTS], np.abs(x).max(), rtol=2**-8
    )


def weights_of(recipe, path=None):
    """A trained model of one layer, or one with the weights of a file."""
    policy = (
        "float32" if recipe is None else tfmp.Policy("mixed_float8", recipe)
    )
    layer = tfmp.layers.Dense if recipe else keras.layers.Dense
    model = keras.Sequential([keras.Input([8]), layer(4, dtype=policy)])
    optimizer = keras.optimizers.SGD(momentum=0.9)
    model.compile(tfmp.optimizers.LossScaleOptimizer(optimizer), "mse")
    x = np.random.default_rng(0).normal(size=[16, 8])
    model.fit(x, x[:, :4], verbose=0)
    if path is not None:
        model.load_weights(path)
    return model


LONG, SHORT = (
    tfmp.recipes.DelayedScaling(amax_history_len=n) for n in (1024, 2)
)


@pytest.mark.slow_but(
    "1024)-DelayedScaling(amax_history_len=2)", "None-None", "None-Delayed"
)
@pytest.mark.parametrize("saved", [LONG, SHORT, None], ids=repr)
@pytest.mark.parametrize("loaded", [LONG, SHORT, None], ids=repr)
def test_fault_16_files_load_whatever_was_saved(saved, loaded, tmp_path):
    path = tmp_path / "x.weights.h5"
    before = weights_of(saved)
    before.save_weights(path)
    after = weights_of(loaded, path)
    a, b = before.layers[0], after.layers[0]
    np.testing.assert_array_equal(a.kernel, b.kernel)
    np.testing.assert_array_equal(a.bias, b.bias)
    if loaded is not None:
        seen = np.zeros(3) if saved is None else a.amax.numpy()
        np.testing.assert_array_equal(b.amax, seen)
    inner = [m.optimizer.inner_optimizer.variables for m in (before, after)]
    for mine, theirs in zip(*inner, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    history = after.optimizer.amax_history.numpy()
    both = saved is not None and loaded is not None
    assert history.any() == both
    after.fit(np.ones([16, 8]), np.ones([16, 4]), verbose=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fault_18_converted_after_the_optimizer_is_built(optimizer):
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=[16, 8])
    model.fit(x, x[:, :4], verbose=0)
    assert model.optimizer.built
    tfmp.convert(model)
    model.fit(x, x[:, :4], verbose=0)
    assert (model.layers[0].amax.numpy() > 0).all()
