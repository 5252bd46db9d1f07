"""What people do with a list of gradients, in FP8 against bfloat16.

No call of tfmp is special to any of it: what layers observe is not in the list.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp._core.observations import SINCE
from tfmp.layers.float8_state import all_states
from tfmp.optimizers import LossScaleOptimizer

ROWS, WIDTH = 64, 16
Gradients = list[tf.Tensor]


def data() -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=[8, ROWS, WIDTH])).astype("float32")
    y = np.tanh(x @ rng.normal(size=[WIDTH, 8]) / 8).astype("float32")
    return tf.constant(x), tf.constant(y)


def make_model(policy: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(48, "relu"), keras.layers.Dense(8)]
    model = keras.Sequential([keras.Input([WIDTH]), *layers])
    tfmp.convert(model, policy, filter="all")
    return model


class Loop:
    """A model, an optimizer, and what both make of a batch."""

    def __init__(self, policy: str, optimizer: Any) -> None:
        self.model = make_model(policy)
        self.optimizer = optimizer
        self.scales = isinstance(optimizer, LossScaleOptimizer)

    @property
    def variables(self) -> list[Any]:
        return self.model.trainable_variables

    def scaled(self, loss: Any) -> Any:
        return self.optimizer.scale_loss(loss) if self.scales else loss

    def loss(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        error = tf.cast(self.model(x, training=True), tf.float32) - y
        return tf.reduce_mean(tf.square(error))

    def gradients(
        self, x: tf.Tensor, y: tf.Tensor, more: Callable[[], Any] = lambda: 0.0
    ) -> Gradients:
        with tf.GradientTape() as tape:
            loss = self.scaled(self.loss(x, y) + more())
        return tape.gradient(loss, self.variables)

    def apply(self, gradients: Gradients) -> None:
        self.optimizer.apply(gradients, self.variables)


def clipped(loop: Loop, x: tf.Tensor, y: tf.Tensor) -> None:
    found = loop.gradients(x, y)
    loop.apply(tf.clip_by_global_norm(found, loop.scaled(0.1))[0])


def normed(loop: Loop, x: tf.Tensor, y: tf.Tensor) -> None:
    found = loop.gradients(x, y)
    norm = tf.linalg.global_norm(found) / loop.scaled(1.0)
    loop.apply([g / norm for g in found])


def averaged(loop: Loop, x: tf.Tensor, y: tf.Tensor) -> None:
    halves = zip(tf.split(x, 2), tf.split(y, 2), strict=True)
    both = [loop.gradients(*half) for half in halves]
    loop.apply([(a + b) / 2 for a, b in zip(*both, strict=True)])


def one_part_large(loop: Loop, x: tf.Tensor, y: tf.Tensor) -> None:
    total = [tf.zeros(v.shape) for v in loop.variables]
    parts = zip(tf.split(x, 4), tf.split(y, 4), (1, 1, 30, 1), strict=True)
    for a, b, size in parts:
        found = loop.gradients(size * a, size * b)
        total = [t + g / 4 for t, g in zip(total, found, strict=True)]
    loop.apply(tf.clip_by_global_norm(total, loop.scaled(1.0))[0])


def with_l2(loop: Loop, x: tf.Tensor, y: tf.Tensor) -> None:
    def penalty() -> Any:
        squares = [tf.reduce_sum(v.value**2) for v in loop.variables]
        return 1e-3 * tf.add_n(squares)

    loop.apply(loop.gradients(x, y, penalty))


def sam(loop: Loop, x: tf.Tensor, y: tf.Tensor) -> None:
    """Sharpness-aware minimization: arXiv 2010.01412, algorithm 1."""
    found = loop.gradients(x, y)
    norm = tf.linalg.global_norm(found)
    steps = [0.05 * g / norm for g in found]
    for variable, each in zip(loop.variables, steps, strict=True):
        variable.assign_add(each)
    found = loop.gradients(x, y)
    for variable, each in zip(loop.variables, steps, strict=True):
        variable.assign_sub(each)
    loop.apply(found)


WAYS = {
    f.__name__: f
    for f in (clipped, normed, averaged, one_part_large, with_l2, sam)
}
OPTIMIZERS = {
    "keras": keras.optimizers.Adam,
    "tfmp": lambda rate: LossScaleOptimizer(keras.optimizers.Adam(rate)),
}


@functools.cache
def trained(policy: str, way: str, optimizer: str) -> float:
    """Returns the loss after a training."""
    loop = Loop(policy, OPTIMIZERS[optimizer](3e-3))
    step = tf.function(
        lambda x, y: WAYS[way](loop, x, y),
        autograph=False,
        jit_compile=way == "averaged",
    )
    x, y = data()
    loop.optimizer.build(loop.variables)
    for _ in range(12):
        for i in range(len(x)):
            step(x[i], y[i])
    return float(np.mean([loop.loss(x[i], y[i]) for i in range(len(x))]))


@pytest.mark.slow_but("[sam", "[normed-tfmp", "[clipped-tfmp")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS)
def test_it_trains_as_bfloat16_does(way, optimizer):
    low = trained("mixed_float8", way, optimizer)
    assert low < 1.1 * trained("mixed_bfloat16", way, "keras") + 0.002


def test_the_losses_tell_a_training_that_went_wrong():
    loop = Loop("mixed_bfloat16", keras.optimizers.Adam())
    x, y = data()
    untrained = np.mean([loop.loss(x[i], y[i]) for i in range(len(x))])
    for way in WAYS:
        assert trained("mixed_bfloat16", way, "keras") < untrained / 2


SCALES = [(2.0**15, 2.0**15), (2.0**15, 1.0), (1.0, 2.0**15)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_a_gradient_through_a_network_of_another_scale(kind):
    """A generator's through a discriminator, an actor's through a critic."""
    sizes = {pair: through(kind, *pair) for pair in SCALES}
    assert min(sizes.values()) > 0.8 * max(sizes.values()), sizes


def through(kind: str, outer: float, inner: float) -> float:
    """Returns the norm of the first network's gradient, after some steps."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    if kind == "dense":
        shape, layers = [8], [keras.layers.Dense(32, "relu") for _ in range(2)]
    else:
        shape = [4, 4, 16]
        layers = [keras.layers.Conv2D(16, 3, padding="same") for _ in range(2)]
        layers.append(keras.layers.Flatten())
    judge = keras.Sequential([keras.Input(shape), *layers])
    judge.add(keras.layers.Dense(1))
    maker = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(int(np.prod(shape))),
            keras.layers.Reshape(shape),
        ]
    )
    tfmp.convert(judge, filter="all")
    of_maker, of_judge = (
        LossScaleOptimizer(keras.optimizers.SGD(0.01), scale, dynamic=False)
        for scale in (outer, inner)
    )
    entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    ones, zeros = tf.ones([16, 1]), tf.zeros([16, 1])

    @tf.function(autograph=False)
    def step(real: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = entropy(ones, judge(real, training=True))
            fake = judge(maker(noise), training=True)
            loss = of_judge.scale_loss(loss + entropy(zeros, fake))
        variables = judge.trainable_variables
        of_judge.apply(tape.gradient(loss, variables), variables)
        with tf.GradientTape() as tape:
            fake = judge(maker(noise, training=True), training=True)
            loss = of_maker.scale_loss(entropy(ones, fake))
        return tape.gradient(loss, maker.trainable_variables)[0]

    of_judge.build(judge.trainable_variables)
    for _ in range(20):
        real = 1 + rng.normal(size=[16, *shape]).astype("float32")
        noise = rng.normal(size=[16, 4]).astype("float32")
        found = step(tf.constant(real), tf.constant(noise))
    return float(tf.norm(found)) / outer


@pytest.mark.slow
@pytest.mark.parametrize("training", [None, False])
def test_a_saliency_map_after_a_training_at_a_large_scale(training):
    """Also of convolutions, whose gradients are E4M3: Grad-CAM."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([6, 6, 16]),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    tfmp.convert(model, filter="all")
    model.compile(LossScaleOptimizer("adam", 2.0**20, dynamic=False), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=[32, 6, 6, 16]).astype("float32")
    model.fit(x, x[:, 0, 0, :4], 8, epochs=2, verbose=0)
    found = []
    for each in ("mixed_float8", "mixed_bfloat16"):
        tfmp.set_precision(model, each)
        inputs = tf.constant(x[:4])
        before = [v.numpy() for v in model.variables]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            score = tf.cast(model(inputs, training=training)[:, 0], tf.float32)
        found.append(tape.gradient(score, inputs).numpy().ravel())
        if training is False:
            for old, variable in zip(before, model.variables, strict=True):
                np.testing.assert_array_equal(old, variable.numpy())
    assert np.corrcoef(*found)[0, 1] > 0.95
    assert 0.8 < np.linalg.norm(found[0]) / np.linalg.norm(found[1]) < 1.25


def test_weights_are_those_of_the_plain_model():
    plain, low = make_model("mixed_bfloat16"), make_model("mixed_float8")
    assert low.count_params() == plain.count_params()
    assert len(all_states(low)) == 2 and not all_states(plain)
    low.set_weights([2 * w for w in plain.get_weights()])
    plain.set_weights(low.get_weights())
    x, _ = data()
    a, b = (tf.cast(m(x[0]), tf.float32).numpy().ravel() for m in (low, plain))
    assert np.corrcoef(a, b)[0, 1] > 0.99


@pytest.mark.parametrize("written", ["mixed_float8", "mixed_bfloat16"])
def test_checkpoints_of_tensorflow_both_ways(written, tmp_path):
    read = {"mixed_float8": "mixed_bfloat16", "mixed_bfloat16": "mixed_float8"}
    models = [make_model(policy) for policy in (written, read[written])]
    models[0].layers[0].kernel.assign_add(tf.ones([WIDTH, 48]))
    path = tf.train.Checkpoint(model=models[0]).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=models[1]).restore(path).expect_partial()
    for a, b in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow_but("[False]")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_function_called_several_times_loses_no_observation(jit_compile):
    """Calls that share a variable run one after the other."""
    seen = []
    for compiled in (lambda f: f, tf.function):
        keras.utils.set_random_seed(0)
        layer = tfmp.layers.Dense(4, dtype="mixed_float8")
        layer.build([None, 4])
        layer.kernel.assign(2 * layer.kernel)
        call = compiled(lambda x, layer=layer: layer(x, training=True))

        def step(call=call, layer=layer):
            x = tf.ones([2, 4])
            with tf.GradientTape() as tape:
                y = tf.reduce_sum(call(call(x))) + tf.reduce_sum(call(3 * x))
            return tape.gradient(y, [layer.kernel.value])

        tf.function(step, autograph=False, jit_compile=jit_compile)()
        seen.append(layer.float8.variable.numpy()[SINCE])
    np.testing.assert_array_equal(*seen)
    assert seen[0].min() > 0 and seen[0][2] > 1
