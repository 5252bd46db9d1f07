"""What goes wrong with FP8 scales in Keras: programs 1 to 10, and 19.

A program takes a library, trains with it, and returns what it saw.  Its
docstring says what is tried.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from fault_libraries import Keras, Seen

STOCK_LAYERS = {
    "Conv2D": ([8, 8, 3], lambda: keras.layers.Conv2D(4, 3)),
    "BatchNormalization": ([8], keras.layers.BatchNormalization),
    "LayerNormalization": ([8], keras.layers.LayerNormalization),
    "LSTM": ([4, 8], lambda: keras.layers.LSTM(4)),
    "Embedding": ([4], lambda: keras.layers.Embedding(8, 4)),
    "Dropout": ([8], lambda: keras.layers.Dropout(0.1)),
    "Dense": ([8], lambda: keras.layers.Dense(4)),
}


def data(rows: int = 64, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Returns normal inputs, and the sums of their columns."""
    x = np.random.default_rng(0).normal(size=(rows, width)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def dense(library: Keras, units: int = 8, **options: Any) -> keras.Layer:
    """Returns a dense layer in FP8."""
    return library.layers.Dense(units, dtype=library.policy(), **options)


def compiled(
    library: Keras, *layers: keras.Layer, inner: Any = "sgd", **options: Any
) -> keras.Model:
    """Returns a compiled model of layers; its inputs are of width 16."""
    model = keras.Sequential([keras.Input([16]), *layers])
    model.compile(library.optimizer(inner), "mse", **options)
    return model


def trained(model: keras.Model, epochs: int = 8) -> Seen:
    """Trains, for the losses of the first and the last epoch."""
    losses = model.fit(*data(), epochs=epochs, verbose=0).history["loss"]
    text = f"trains: loss from {losses[0]:.3g} to {losses[-1]:.3g}"
    return Seen(losses[-1] < 0.5 * losses[0], text)


def compared(library: Keras, layer: Any, x: np.ndarray) -> Seen:
    """Compares the maximum that a layer assumes of inputs with their own."""
    true, assumed = np.abs(x).max(), library.assumed(layer)
    text = f"inputs up to {true:.3g}, assumed {assumed:.3g}"
    return Seen(0.99 * true <= assumed <= 8 * true, text)


def sqnr(exact: Any, value: Any) -> float:
    """Returns signal over noise in dB."""
    exact, value = np.float64(exact), np.float64(tf.cast(value, tf.float64))
    noise = np.square(exact - value).sum()
    return float(10 * np.log10(np.square(exact).sum() / max(noise, 1e-99)))


def eager(library: Keras) -> Seen:
    """Train with `run_eagerly=True`."""
    layers = [dense(library), dense(library, 1)]
    return trained(compiled(library, *layers, run_eagerly=True))


def averaged_weights(library: Keras) -> Seen:
    """Train with `use_ema=True`."""
    inner = keras.optimizers.SGD(0.01, use_ema=True)
    layers = [dense(library), dense(library, 1)]
    return trained(compiled(library, *layers, inner=inner))


def shared_layer(library: Keras, steps: int = 150) -> Seen:
    """Call a layer twice in a step."""
    shared, inputs = dense(library, 16), keras.Input([16])
    outputs = dense(library, 1)(shared(shared(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(library.optimizer(), "mse", jit_compile=True)
    (x, y), seen = data(), []
    for step in range(steps):
        if not np.isfinite(model.train_on_batch(x, 0 * y)):
            growth = np.median(np.divide(seen[9:19], seen[8:18]))
            text = f"scale x{growth:.3g} a step, loss not finite at step {step}"
            return Seen(False, text)
        seen.append(library.assumed(shared, "kernel"))
    times = seen[-1] / np.abs(shared.kernel.numpy()).max()
    text = f"assumes {times:.3g} times the kernel's maximum at step {steps}"
    return Seen(times < 8, text)


def time_distributed(library: Keras) -> Seen:
    """Train inside `TimeDistributed`."""
    inner = dense(library, 1)
    model = keras.Sequential(
        [keras.Input([2, 16]), keras.layers.TimeDistributed(inner)]
    )
    model.compile(library.optimizer(), "mse")
    x = data(128)[0].reshape([64, 2, 16])
    for _ in range(4):
        model.train_on_batch(x, x[..., :1])
    return compared(library, inner, x)


def frozen(library: Keras) -> Seen:
    """Freeze a layer, then inputs grow 10,000 times."""
    layer = dense(library, use_bias=False)
    model, (x, y) = compiled(library, layer, dense(library, 1)), data()
    for _ in range(4):
        model.train_on_batch(x, y)
    layer.trainable = False
    model.compile(library.optimizer(keras.optimizers.SGD(0.0)), "mse")
    for _ in range(4):
        model.train_on_batch(1e4 * x, y)
    outputs = tf.function(layer)(1e4 * x, training=True)
    found = sqnr(1e4 * x @ layer.kernel.numpy(), outputs)
    return Seen(found > 20, f"SQNR of its outputs {found:.1f} dB")


def global_policy(library: Keras) -> Seen:
    """Call layers of seven kinds, with FP8 as global policy."""
    errors = {}
    with library.policy_scope():
        for name, (shape, make) in STOCK_LAYERS.items():
            try:
                make()(np.ones([2, *shape], "float32"))
            except Exception as error:
                errors[name] = type(error).__name__
    text = f"{len(errors)} of {len(STOCK_LAYERS)} raise"
    if errors:
        text += f": {', '.join(sorted(set(errors.values())))}"
    return Seen(not errors, text)


def first_steps(library: Keras) -> Seen:
    """Gradients of 1e-6 in steps 0 to 2."""
    layer = dense(library, use_bias=False)
    model, (x, _) = compiled(library, layer), data()
    model.compile(
        library.optimizer(keras.optimizers.SGD(1.0)),
        lambda y, y_pred: keras.ops.sum(y * keras.ops.cast(y_pred, "float32")),
    )
    y = 1e-6 * np.random.default_rng(1).normal(size=(64, 8)).astype("float32")
    moved = []
    for _ in range(3):
        before = layer.kernel.numpy()
        model.train_on_batch(x, y)
        moved.append(np.mean(before != layer.kernel.numpy()))
    shares = ", ".join(f"{share:.0%}" for share in moved)
    return Seen(min(moved) > 0.9, f"{shares} of the kernel moves")


def infinite_input(library: Keras, steps: int = 1100) -> Seen:
    """One inf in an activation, then inputs grow 8 times."""
    inner = keras.optimizers.SGD(0.0)
    layer = dense(library)
    model = compiled(library, layer, inner=inner, jit_compile=True)
    x, y = data()[0], np.zeros([64, 8])
    bad = x.copy()
    bad[0, 0] = np.inf
    for batch in (x, x, x, bad):
        model.train_on_batch(batch, y)
    for step in range(1, steps + 1):
        model.train_on_batch(8 * x, y)
        if compared(library, layer, 8 * x).ok:
            return Seen(step <= 2, f"the scale follows at step {step} after it")
    return Seen(False, f"the scale still stands {steps} steps after it")


def float16(library: Keras) -> Seen:
    """Float16 compute, inputs of 2e-6."""
    layer = library.float16_dense(8)
    model = keras.Sequential([keras.Input([16]), layer])
    model.compile(library.optimizer(keras.optimizers.SGD(0.0)), "mse")
    x = data()[0]  # No zeros: zero over a scale of zero is NaN.
    x = np.float32(np.float16(2.0**-19 * np.where(np.abs(x) < 0.1, 0.1, x)))
    layer.kernel.assign(16 * layer.kernel)
    for _ in range(4):
        model.train_on_batch(x, np.zeros([64, 8]))
    outputs = model.predict(x, verbose=0).astype("float32")
    found = sqnr(x @ layer.kernel.numpy(), outputs)
    zero = np.mean(outputs == 0)
    text = f"{zero:.0%} of the outputs are 0, SQNR {found:.1f} dB"
    return Seen(found > 15, text)


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
    """Returns the strategy; the reductions of two of them would collide."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def each_replica(strategy: tf.distribute.Strategy) -> Iterator[Any]:
    """Yields what reads a variable, for each replica."""
    for index in range(strategy.num_replicas_in_sync):
        yield lambda v, i=index: np.asarray(
            strategy.experimental_local_results(v)[i]
        )


def replicas(library: Keras) -> Seen:
    """Two replicas, the second one's inputs 100 times as large."""
    strategy = two_replicas()
    with strategy.scope():
        layer = dense(library, 1)
        inner = keras.optimizers.SGD(0.0)
        model = compiled(library, layer, inner=inner, jit_compile=False)
    x, y = data()
    x = np.sign(x) * np.repeat(np.float32([1, 100]), 32)[:, None]
    for _ in range(4):
        model.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    seen = [
        library.assumed(layer, read=read) for read in each_replica(strategy)
    ]
    text = f"their scales are {max(seen) / min(seen):.3g} times apart"
    return Seen(seen[0] == seen[1], text if seen[0] != seen[1] else "one scale")


def clipped(library: Keras) -> Seen:
    """Clip the gradients in a custom loop."""
    layer = dense(library)
    model, (x, y) = compiled(library, layer, dense(library, 1)), data()
    optimizer = library.optimizer(keras.optimizers.SGD(1.0))
    optimizer.build(model.trainable_variables)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            error = tf.cast(model(x, training=True), tf.float32) - y
            loss = optimizer.scale_loss(tf.reduce_mean(tf.square(error)))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1e-3)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    for _ in range(4):
        step()
    return compared(library, layer, x)
