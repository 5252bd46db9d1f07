"""Weights after a training whose loss scale moves, against one without.

A power of two is exact in float32: whatever the scale did, and whichever way
the model is trained, the weights are bit for bit those of the same training
without scaling, on the batches that were not skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp.optimizers import LossScaleOptimizer

BATCHES, ROWS, WIDTH = 24, 8, 6
BAD = (4, 5, 13)  # batches
INITIAL, GROWTH = 1024.0, 3
Data = list[tuple[np.ndarray, np.ndarray]]


def data(good_only: bool = False) -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCHES, ROWS, WIDTH)).astype("float32")
    y = x[..., :1] * x[..., 1:2]
    x[list(BAD), 0, 0] = np.inf
    kept = [i for i in range(BATCHES) if not (good_only and i in BAD)]
    return [(x[i], y[i]) for i in kept]


def final_scale() -> float:
    scale, finite = INITIAL, 0
    for step in range(BATCHES):
        finite = 0 if step in BAD else finite + 1
        scale *= 0.5 if step in BAD else 1.0
        if finite == GROWTH:
            scale, finite = scale * 2, 0
    return scale


def layers() -> list[keras.Layer]:
    return [
        keras.layers.Dense(5, "relu", name="first"),
        keras.layers.Dense(1, name="last"),
    ]


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input([WIDTH]), *layers()])


def unbuilt() -> keras.Model:
    return keras.Sequential(layers())


@keras.saving.register_keras_serializable("trajectories")
class OwnStep(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"loss": loss}


def own_step() -> keras.Model:
    inputs = x = keras.Input([WIDTH])
    for layer in layers():
        x = layer(x)
    return OwnStep(inputs, x)


def fit(**how: Any) -> Callable[[keras.Model, Any, Data], None]:
    def train(model: keras.Model, optimizer: Any, batches: Data) -> None:
        x, y = map(np.concatenate, zip(*batches, strict=True))
        model.compile(optimizer, "mse", **how)
        model.fit(x, y, ROWS, shuffle=False, verbose=0)

    return train


def one_by_one(model: keras.Model, optimizer: Any, batches: Data) -> None:
    model.compile(optimizer, "mse")
    for x, y in batches:
        model.train_on_batch(x, y)


def own_loop(
    compiled: Callable[[Any], Any], built: bool
) -> Callable[[keras.Model, Any, Data], None]:
    def train(model: keras.Model, optimizer: Any, batches: Data) -> None:
        @compiled
        def step(x: tf.Tensor, y: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
                loss = optimizer.scale_loss(loss)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        if built:
            optimizer.build(model.trainable_variables)
        for x, y in batches:
            step(tf.constant(x), tf.constant(y))

    return train


def over_a_file(model: keras.Model, optimizer: Any, batches: Data) -> None:
    model.compile(optimizer, "mse")
    fit()(model, optimizer, batches[:9])
    with forked.tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        loaded = keras.models.load_model(f"{folder}/model.keras")
    fit()(loaded, loaded.optimizer, batches[9:])
    model.set_weights(loaded.get_weights())
    model.optimizer = loaded.optimizer


def _changed(change: Callable[[keras.Model], None]) -> Any:
    def train(model: keras.Model, optimizer: Any, batches: Data) -> None:
        one_by_one(model, optimizer, batches[:9])
        change(model)
        for x, y in batches[9:]:
            model.train_on_batch(x, y)

    return train


def rebuild(model: keras.Model) -> None:
    model.optimizer.rebuild(model.trainable_variables)


WAYS = {
    "fit": (sequential, fit()),
    "fit, unbuilt": (unbuilt, fit()),
    "fit, xla": (sequential, fit(jit_compile=True)),
    "fit, eager": (sequential, fit(run_eagerly=True)),
    "fit, executions": (sequential, fit(steps_per_execution=4)),
    "fit, executions, xla": (
        sequential,
        fit(steps_per_execution=4, jit_compile=True),
    ),
    "own train_step": (own_step, fit()),
    "train_on_batch": (sequential, one_by_one),
    "eager loop": (sequential, own_loop(lambda f: f, built=True)),
    "eager loop, unbuilt": (sequential, own_loop(lambda f: f, built=False)),
    "graph loop": (sequential, own_loop(tf.function, built=True)),
    "graph loop, unbuilt": (sequential, own_loop(tf.function, built=False)),
    "xla loop, unbuilt": (
        sequential,
        own_loop(lambda f: tf.function(f, jit_compile=True), built=False),
    ),
    "save and load": (sequential, over_a_file),
    "convert": (
        sequential,
        _changed(lambda m: tfmp.convert(m, "float32", filter="all")),
    ),
    "set_precision": (
        sequential,
        _changed(lambda m: tfmp.set_precision(m, "float32")),
    ),
    "rebuild": (sequential, _changed(rebuild)),
}


def inner(**options: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.125, momentum=0.5, **options)


def trained(way: str, optimizer: Any, batches: Data) -> Any:
    """Returns the weights and the optimizer."""
    keras.utils.set_random_seed(1)
    make, train = WAYS[way]
    model = make()
    train(model, optimizer, batches)
    return model.get_weights(), getattr(model, "optimizer", None) or optimizer


class Plain:
    """What an own loop asks of an optimizer, without scaling."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.build, self.apply = optimizer.build, optimizer.apply

    def scale_loss(self, loss: Any) -> Any:
        return loss


def assert_alike(found: Any, wanted: Any) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def reference(way: str, **options: Any) -> Any:
    optimizer = inner(**options)
    if "loop" in way:
        optimizer = Plain(optimizer)
    if "rebuild" in way:
        way = "train_on_batch"
    # Of a file, the batch that divides the training is another one.
    way = "train_on_batch" if way == "save and load" else way
    return trained(way, optimizer, data(good_only=True))[0]


@pytest.mark.slow_but(
    "[fit, xla]",
    "[fit]",
    "own train",
    "[eager loop]",
    "[graph loop]",
    "[train_on",
)
@pytest.mark.parametrize("way", WAYS)
def test_float32_is_the_training_without_a_scale(way):
    optimizer = LossScaleOptimizer(inner(), INITIAL, growth_steps=GROWTH)
    weights, optimizer = trained(way, optimizer, data())
    assert_alike(weights, reference(way))
    said = optimizer.statistics
    assert said["loss_scale"] == final_scale() != INITIAL
    assert said["overflow_count"] == said["skipped_steps"] == len(BAD)


@pytest.mark.slow_but("[fit]")
@pytest.mark.parametrize("way", ["fit", "fit, xla", "eager loop, unbuilt"])
def test_accumulated_gradients_are_those_without_a_scale(way):
    options = {"gradient_accumulation_steps": 3}
    scaled = LossScaleOptimizer(inner(**options), INITIAL, growth_steps=GROWTH)
    weights, optimizer = trained(way, scaled, data())
    assert_alike(weights, reference(way, **options))
    assert optimizer.statistics["loss_scale"] == final_scale()


FLOAT16 = ["fit", "fit, executions", "fit, eager", "train_on_batch"]


@pytest.mark.parametrize("way", FLOAT16)
def test_float16_is_the_training_by_keras(way):
    """With a scale that is too large at first, and grows until it is again."""
    found = []
    with tfmp.policy_scope("mixed_float16"):
        for scaled in (
            LossScaleOptimizer(inner(), 2.0**21, growth_steps=GROWTH),
            keras.mixed_precision.LossScaleOptimizer(
                inner(), 2.0**21, dynamic_growth_steps=GROWTH
            ),
        ):
            good = [(2 * x, y) for x, y in data(good_only=True)]
            weights, optimizer = trained(way, scaled, good)
            found.append((weights, float(optimizer.dynamic_scale)))
    (ours, scale), (theirs, wanted) = found
    assert_alike(ours, theirs)
    assert scale == wanted < 2.0**19


def test_no_order_of_calls_gives_a_wrong_scale():
    optimizer = LossScaleOptimizer("sgd", 64.0, growth_steps=1)
    assert float(optimizer.scale_loss(1.0)) == 64
    traced = tf.function(lambda: optimizer.scale_loss(1.0))
    assert float(traced()) == 64
    variable = keras.Variable([1.0])
    optimizer.apply([tf.zeros([1])], [variable])
    assert float(optimizer.scale_loss(1.0)) == float(traced()) == 128
    optimizer.apply([tf.constant([np.inf])], [variable])
    assert float(optimizer.scale_loss(1.0)) == float(traced()) == 64


REPLICAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_trajectories as t
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    inner = t.inner()
    if sys.argv[1] == "scaled":
        inner = t.LossScaleOptimizer(inner, t.INITIAL, growth_steps=t.GROWTH)
    keras.utils.set_random_seed(1)
    model = t.sequential()
t.fit()(model, inner, t.data(good_only=sys.argv[1] == "plain"))
scale = getattr(inner, "statistics", {}).get("loss_scale")
print(json.dumps([[w.tolist() for w in model.get_weights()],
                  scale]))
"""


def test_replicas_train_as_without_a_scale():
    path = (forked.ROOT, forked.ROOT / "tests")
    runs = [
        forked.Program(REPLICAS, kind, path=path)
        for kind in ("scaled", "plain")
    ]
    ended = [run.wait() for run in runs]
    for each in ended:
        assert each.returncode == 0, each.stderr[-2000:]
    (ours, scale), (plain, _) = (
        json.loads(each.stdout.splitlines()[-1]) for each in ended
    )
    assert_alike(map(np.array, ours), map(np.array, plain))
    assert scale == final_scale()


CUT = """
import sys, os, keras
import test_trajectories as t, tfmp, numpy as np
keras.utils.set_random_seed(1)
model = t.sequential()
model.compile(
    t.LossScaleOptimizer(t.inner(), t.INITIAL, growth_steps=t.GROWTH), "mse")
class Kill(keras.callbacks.Callback):
    trained = 0
    def on_train_batch_end(self, batch, logs=None):
        self.trained += 1
        if batch == int(sys.argv[2]):
            os._exit(9)
x, y = map(np.concatenate, zip(*t.data()))
backup = tfmp.callbacks.BackupAndRestore(sys.argv[1], save_freq=4)
kill = Kill()
model.fit(x, y, t.ROWS, shuffle=False, verbose=0, callbacks=[backup, kill])
print(kill.trained)
np.savez(sys.argv[1] + ".npz", *model.get_weights())
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_as_without_a_scale(tmp_path):
    path = (forked.ROOT, forked.ROOT / "tests")
    folder = str(tmp_path / "backup")
    runs = [
        forked.Program(CUT, folder, batch, path=path).wait()
        for batch in ("6", "14", "-1")
    ]
    assert [run.returncode for run in runs] == [9, 9, 0]
    assert int(runs[-1].stdout) == BATCHES - 12  # the last backup's
    with np.load(folder + ".npz") as found:
        assert_alike(found.values(), reference("fit"))
