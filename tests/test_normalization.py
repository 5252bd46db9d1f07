"""Batch normalization: the Keras layer, but for batches that overflow."""

from __future__ import annotations

import json

import forked
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from modes import each_mode

import tfmp
from tfmp._keras import class_and_policy
from tfmp.layers import BatchNormalization

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16"]
FIT = {
    "jit": ("mixed_float8", {"jit_compile": True}),
    "graph": ("mixed_float16", {"jit_compile": False}),
    "eager": ("mixed_float16", {"run_eagerly": True}),
}
RENORM = {
    "renorm": True,
    "renorm_clipping": {"rmax": 3.0, "rmin": 0.3, "dmax": 5.0},
    "renorm_momentum": 0.7,
}
OPTIONS = {
    "axis": 1,
    "momentum": 0.9,
    "epsilon": 1e-2,
    "beta_initializer": "ones",
    "gamma_initializer": "he_normal",
    "moving_mean_initializer": "ones",
    "moving_variance_initializer": keras.initializers.Constant(2.0),
    "beta_regularizer": keras.regularizers.L2(1e-2),
    "gamma_regularizer": keras.regularizers.L1(1e-2),
    "beta_constraint": keras.constraints.NonNeg(),
    "gamma_constraint": keras.constraints.MaxNorm(1.0),
    "synchronized": True,
    "name": "mine",
    **RENORM,
}
OPTIONS["gamma_initializer"] = keras.initializers.RandomNormal(seed=1)
CASES = {
    "default": {},
    "options": OPTIONS,
    "no_center": {"center": False, "momentum": 0.5},
    "no_scale": {"scale": False, "synchronized": True},
    "frozen": {"trainable": False},
}


def normal(*shape, seed=0):
    """Normal float32 values."""
    values = np.random.default_rng(seed).normal(size=shape)
    return tf.constant(values, tf.float32)


def built(cls=BatchNormalization, width=3, **options):
    """A layer for inputs `[batch, 3, 3]`."""
    layer = cls(**options)
    layer.build([None, width, width])
    return layer


def averages(layer):
    """All statistics that a layer keeps."""
    return [v.numpy() for v in layer.non_trainable_variables]


def step(layer, x, **call):
    """Output, and the gradients of inputs and variables."""
    variables = [v.value for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, **call)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * normal(*x.shape, seed=9))
    return y, *tape.gradient(loss, [x, *variables])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_on_finite_batches_it_is_the_keras_layer(case, policy):
    results = []
    for cls in (BatchNormalization, keras.layers.BatchNormalization):
        layer = built(cls, dtype=policy, **CASES[case])
        found = [step(layer, 3 + normal(8, 3, 3, seed=i)) for i in range(3)]
        found.append(layer(normal(4, 3, 3), training=False))
        found.append([tf.cast(loss, tf.float32) for loss in layer.losses])
        results.append([found, averages(layer)])
    assert oracles.same_bits(*results)


@each_mode
@pytest.mark.parametrize("options", [{}, RENORM], ids=["plain", "renorm"])
def test_on_finite_batches_every_mode_is_that_of_the_keras_layer(run, options):
    mask = tf.constant(np.random.default_rng(0).random([8, 3]) < 0.7)
    results = []
    for cls in (BatchNormalization, keras.layers.BatchNormalization):
        layer = built(cls, **options)
        call = run(lambda x, m, layer=layer: step(layer, x, mask=m))
        results.append([call(normal(8, 3, 3), mask), averages(layer)])
    assert oracles.same_bits(*results)


BAD = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan, "variance": 1e30}


@each_mode
@pytest.mark.parametrize("options", [{}, RENORM], ids=["plain", "renorm"])
def test_a_batch_that_is_not_finite_changes_no_average(run, options):
    good, layer = normal(8, 3, 3).numpy(), built(**options)
    call = run(lambda x: layer(x, training=True))
    for bad in BAD.values():
        wrong = good.copy()
        wrong[5, 1, 1] = bad  # One channel of three.
        call(good)
        before = averages(layer)
        call(wrong)
        assert oracles.same_bits(before, averages(layer)), bad
        call(good + 1)
        for was, now in zip(before, averages(layer), strict=True):
            assert np.all(np.isfinite(now)) and np.all(was != now), bad


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_such_a_batch_does_change_the_averages_of_the_keras_layer(bad):
    wrong = normal(8, 3, 3).numpy()
    wrong[5, 1, 1] = bad
    stock = built(keras.layers.BatchNormalization)
    stock(wrong, training=True)
    assert not all(np.all(np.isfinite(a)) for a in averages(stock))


@pytest.mark.parametrize("policy", [*POLICIES, "mixed_float8"])
def test_what_is_stored_decides(policy):
    layer = built(dtype=policy, momentum=0.5)
    before = averages(layer)
    x = np.array([[[-6e4] * 3], [[6e4] * 3]] * 4)  # A variance of 3.6e9.
    layer(tf.constant(np.repeat(x, 3, axis=1), "float32"), training=True)
    if policy == "float16":  # Its averages are float16.
        assert oracles.same_bits(before, averages(layer))
    else:
        np.testing.assert_allclose(
            averages(layer)[1].astype("float32"), 1.8e9, rtol=2**-7
        )


@pytest.mark.parametrize("training, trainable", [(False, True), (True, False)])
def test_where_no_average_is_kept_infinities_pass(training, trainable):
    layer = built(trainable=trainable)
    stock = built(keras.layers.BatchNormalization, trainable=trainable)
    x = np.full([2, 3, 3], np.inf, "float32")
    y, expected = (each(x, training=training) for each in (layer, stock))
    assert oracles.same_bits(y, expected)
    assert oracles.same_bits(averages(layer), averages(stock))


def test_a_stateless_call_leaves_the_layer_alone():
    layer = built()
    trainable = [v.value for v in layer.trainable_variables]
    kept = [tf.convert_to_tensor(v) for v in layer.non_trainable_variables]
    x = normal(8, 3, 3).numpy()
    for wrong in (False, True):
        x[0, 0, 0] = np.inf if wrong else 0.0
        _, new = layer.stateless_call(trainable, kept, x, training=True)
        assert oracles.same_bits(averages(layer), kept)
        assert oracles.same_bits(kept, new) == wrong


def model_of(policy="float32", **options):
    """Dense, normalized, Dense; compiled with a loss-scaling optimizer."""
    keras.utils.set_random_seed(0)
    layers = [
        tfmp.layers.Dense(4, dtype=policy),
        BatchNormalization(dtype=policy),
        tfmp.layers.Dense(1, dtype=policy),
    ]
    model = keras.Sequential([keras.Input([4]), *layers])
    optimizer = tfmp.optimizers.LossScaleOptimizer(
        "sgd", initial_scale=options.pop("scale", 2.0**8)
    )
    model.compile(optimizer, "mse", **options)
    return model


@pytest.mark.slow_but("graph")
@pytest.mark.parametrize("policy, mode", FIT.values(), ids=FIT)
def test_fit_goes_on_after_a_batch_that_overflows(policy, mode):
    model = model_of(policy, **mode)
    x = normal(24, 4).numpy()
    x[11] = np.inf  # In the second batch of three.
    model.fit(x, x[:, :1] * 0, batch_size=8, shuffle=False, verbose=0)
    assert model.optimizer.skipped_steps.numpy() == 1
    found = averages(model.layers[1])
    weights = [v.numpy() for v in model.trainable_variables]
    assert all(np.all(np.isfinite(w)) for w in [*weights, *found])
    alone = model_of(policy, run_eagerly=True)
    for batch in (x[:8], x[16:]):
        alone.train_on_batch(batch, 0 * batch[:, :1])
    np.testing.assert_allclose(
        found[1], averages(alone.layers[1])[1], rtol=0.02
    )


def test_a_finite_batch_counts_although_its_step_is_skipped():
    scale = 2.0**24  # Gradients overflow.
    model = model_of("mixed_float16", scale=scale, run_eagerly=True)
    weights = [v.numpy() for v in model.trainable_variables]
    before = averages(model.layers[1])
    x = normal(8, 4)
    model.train_on_batch(x, 100 * x[:, :1])
    assert model.optimizer.skipped_steps.numpy() == 1
    assert oracles.same_bits(
        weights, [v.numpy() for v in model.trainable_variables]
    )
    for was, now in zip(before, averages(model.layers[1]), strict=True):
        assert np.all(np.isfinite(now)) and np.all(was != now)


@pytest.mark.parametrize("early", [True, False])
def test_a_keras_layer_becomes_ours_in_place(early):
    layer = keras.layers.BatchNormalization()
    if not early:
        layer.build([None, 3])
    class_and_policy.become(
        layer,
        layer.dtype_policy,
        class_and_policy.extended(layer, BatchNormalization),
    )
    assert type(layer) is BatchNormalization
    layer(normal(8, 3), training=True)
    before = averages(layer)
    layer(np.full([8, 3], np.nan, "float32"), training=True)
    assert oracles.same_bits(before, averages(layer))
    assert np.all(before[0] != 0)


def test_config_round_trip():
    layer = BatchNormalization(dtype="mixed_float8", **OPTIONS)
    config = layer.get_config()
    for name in ("axis", "momentum", "epsilon", "synchronized", *RENORM):
        assert config[name] == OPTIONS[name]
    copy = BatchNormalization.from_config(config)
    assert copy.get_config() == config
    assert copy.dtype_policy == tfmp.Policy("mixed_float8")


@pytest.mark.parametrize("options", [{}, RENORM], ids=["plain", "renorm"])
def test_files_are_those_of_the_keras_layer(options, tmp_path):
    models = [
        keras.Sequential([keras.Input([3]), cls(**options)])
        for cls in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    for number, (model, other) in enumerate((models, models[::-1])):
        model.set_weights(
            [np.full(w.shape, 2.0 + number) for w in model.get_weights()]
        )
        model.save_weights(tmp_path / "one.weights.h5")
        other.load_weights(tmp_path / "one.weights.h5")
        assert oracles.same_bits(model.get_weights(), other.get_weights())
    models[0].save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is BatchNormalization
    assert oracles.same_bits(models[0].get_weights(), loaded.get_weights())


REPLICAS = """
import json
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import tfmp

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layers = [tfmp.layers.BatchNormalization(synchronized=True),
              tfmp.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([4]), *layers])
    model.compile(tfmp.optimizers.LossScaleOptimizer("sgd"), "mse",
                  jit_compile=False)

def found():
    return [[[part.numpy().tolist() for part in
              strategy.experimental_local_results(v.value)]
             for v in layer.non_trainable_variables] for layer in layers[:2]]

x = np.random.default_rng(0).normal(size=[16, 4]).astype("float32")
seen = [found()]
for bad in (None, 3, 12, None):  # Rows of replica 0, and of replica 1.
    batch = x.copy()
    if bad is not None:
        batch[bad, 2] = np.inf
    model.fit(batch, x[:, :1], batch_size=16, shuffle=False, verbose=0)
    seen.append(found())
print(json.dumps(seen))
"""


def test_replicas_leave_all_averages_alone():
    run = forked.run(REPLICAS)
    assert run.returncode == 0, run.stderr
    start, good, first, second, end = json.loads(run.stdout.splitlines()[-1])
    assert good == first == second
    assert np.all(np.isfinite(end))
    changed = np.array(start) != good, np.array(good) != end
    # The mean of what is normalized already stays at about zero.
    assert all(np.all(each[0]) and np.all(each[1][1]) for each in changed)
    for each in end[0]:  # Synchronized.
        assert each[0] == each[1]
