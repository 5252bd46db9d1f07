"""Layers in FP8 whose optimizer changes, fails, or is not tfmp's."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp.layers.float8_state import all_states
from tfmp.optimizers import LossScaleOptimizer

INPUTS, KERNEL, GRADS = range(3)
X = np.random.default_rng(0).normal(size=[64, 16]).astype("float32")
Y = X[:, :4].copy()


def made(seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input([16]),
            keras.layers.Dense(16, "relu", name="first"),
            keras.layers.Dense(4, name="last"),
        ]
    )
    tfmp.convert(model, filter="all")
    return model


def scaled(scale):
    return LossScaleOptimizer(keras.optimizers.SGD(1e-2), scale, dynamic=False)


def first_update(model, optimizer):
    """Returns by how much a step moves the first kernel."""
    model.compile(optimizer, "mse")
    kernel = model.get_layer("first").kernel.numpy()
    model.train_on_batch(X, Y)
    return np.linalg.norm(model.get_layer("first").kernel.numpy() - kernel)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(1e-2),
    "1": lambda: scaled(1.0),
    "2 ** 15": lambda: scaled(2.0**15),
}


@pytest.mark.slow_but("[1-sgd]")
@pytest.mark.parametrize("then", OPTIMIZERS)
@pytest.mark.parametrize("now", OPTIMIZERS)
def test_gradients_of_another_loss_scale_are_forgotten(then, now):
    model, plain = made(), made()
    model.compile(OPTIMIZERS[then](), "mse")
    model.fit(X, Y, verbose=0)
    tfmp.revert(plain)
    plain.set_weights(model.get_weights())
    found = first_update(model, OPTIMIZERS[now]())
    assert found == pytest.approx(
        first_update(plain, keras.optimizers.SGD(1e-2)), rel=0.1
    )


def test_a_new_optimizer_knows_no_outlier_of_long_ago():
    model = made()
    model.compile("sgd", "mse")
    model.train_on_batch(100.0 * X, 0 * Y)
    model.train_on_batch(np.full_like(X, np.inf), Y)
    model = again(model)
    for _ in range(64):
        model.train_on_batch(X, Y)
    optimizer = LossScaleOptimizer("sgd", 1.0)
    model.compile(optimizer, "mse")
    model.train_on_batch(X, Y)
    assert optimizer.statistics["skipped_steps"] == 0
    assumed = model.get_layer("first").amax.numpy()[INPUTS]
    assert assumed <= 1.01 * np.abs(X).max()


def again(model):
    """Gives a model the weights back that it was made with."""
    model.set_weights(made().get_weights())
    return model


def test_a_build_that_fails_can_be_tried_again():
    class Fails(keras.optimizers.SGD):
        armed = True

        def build(self, variables):
            if self.armed:
                raise MemoryError
            super().build(variables)

    model, inner = made(), Fails(0.1)
    optimizer = LossScaleOptimizer(inner, 1.0)
    with pytest.raises(MemoryError):
        optimizer.build(model.trainable_variables)
    assert not optimizer.built
    inner.armed = False
    optimizer.build(model.trainable_variables)
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    before = model.get_weights()
    optimizer.apply(gradients, model.trainable_variables)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old - 0.1, rtol=1e-6)


def test_a_warning_that_is_an_error_spoils_no_file(tmp_path, caplog):
    model = made()
    optimizer = LossScaleOptimizer("sgd", 1.0, dynamic=False)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    bad = [tf.fill(v.shape, np.inf) for v in model.trainable_variables]
    step = tf.function(lambda: optimizer.apply(bad))
    for _ in range(60):
        step()
    path = tmp_path / "model.keras"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model.save(path)
    assert "skipped 60 of the steps" in caplog.text
    loaded = keras.models.load_model(path)
    assert loaded.optimizer.statistics["skipped_steps"] == 60


def test_what_was_quantized_has_no_state_in_fp8():
    model = made()
    model.quantize("int8")
    assert not all_states(model)


class Pair(keras.Model):
    """Two networks, each with an optimizer of its own."""

    def __init__(self, build, listed=False):
        super().__init__()
        self.nets = [made(), made(1)]
        self.one, self.two = scaled(8.0), scaled(1.0)
        if listed:
            self.others = [keras.optimizers.SGD()]
        if build:
            self.one.build(self.nets[0].trainable_variables)
            self.two.build(self.nets[1].trainable_variables)

    def call(self, x):
        return self.nets[1](x) + self.nets[0](x)

    def train_step(self, data):
        x, y = data
        for net, optimizer in zip(self.nets, (self.one, self.two), strict=True):
            with tf.GradientTape() as tape:
                loss = keras.losses.mean_squared_error(y, net(x, training=True))
                loss = optimizer.scale_loss(tf.reduce_mean(loss))
            variables = net.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def fit_pair(folder, build=True, stop=None):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == stop:
                raise KeyboardInterrupt

    keras.utils.set_random_seed(0)
    pair = Pair(build)
    pair(X)
    pair.compile()
    backup = tfmp.callbacks.BackupAndRestore(folder, save_freq=2)
    pair.fit(X, Y, 8, epochs=2, verbose=0, callbacks=[Stop(), backup])
    return pair


@pytest.mark.slow
def test_optimizers_beside_the_models_own_go_on(tmp_path):
    whole = fit_pair(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_pair(tmp_path / "cut", stop=5)
    again = fit_pair(tmp_path / "cut")
    assert int(again.one.iterations) == 16
    for a, b in zip(whole.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_optimizer_that_a_backup_could_not_restore(tmp_path):
    with pytest.raises(ValueError, match=r"`model.one` must be built.*Rec"):
        fit_pair(tmp_path / "none", build=False)


class Keeps(keras.Model):
    """Keeps the optimizer that `compile` is given, as many models do."""

    def __init__(self):
        super().__init__()
        self.net = made()
        self.kept = keras.optimizers.SGD(0.1)

    def call(self, x):
        return self.net(x)


def in_parts(given):
    return LossScaleOptimizer(
        keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(given))
    )


@pytest.mark.slow_but("lambda", "[Loss")
@pytest.mark.parametrize(
    "wrap", [lambda given: given, LossScaleOptimizer, in_parts]
)
def test_an_optimizer_that_compile_has_may_be_kept_as_well(wrap, tmp_path):
    model = Keeps()
    model(X)
    model.compile(wrap(model.kept), "mse")
    backup = tfmp.callbacks.BackupAndRestore(tmp_path / "backup")
    model.fit(X, Y, verbose=0, callbacks=[backup])
    assert int(model.kept.iterations) == 2


def test_optimizers_in_a_list_are_looked_at_too(tmp_path):
    pair = Pair(build=True, listed=True)
    pair(X)
    pair.compile()
    backup = tfmp.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ValueError, match=r"`model.others` must be built.*Rec"):
        pair.fit(X, Y, verbose=0, callbacks=[backup])
