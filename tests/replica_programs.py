"""What a process of `replicas.py` does with its strategy."""

from __future__ import annotations

import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import replicas
import tensorflow as tf

import tfmp
from tfmp._core.observations import SINCE
from tfmp.layers.float8_state import all_states

ROWS, WIDTH = replicas.ROWS, replicas.WIDTH


def message(function: Callable[[], Any]) -> str:
    """Returns the error that a function raises; empty if it raises none."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def dense() -> keras.Sequential:
    """Returns a model, each time and everywhere with the same weights."""
    keras.utils.set_random_seed(0)
    layers = [
        tfmp.layers.Dense(8, "relu", dtype="mixed_float8", name="first"),
        keras.layers.Dense(1, dtype="float32", name="second"),
    ]
    return keras.Sequential([keras.Input([WIDTH]), *layers])


def local(strategy: Any, value: Any) -> list[Any]:
    """Returns the value of each replica in this process."""
    parts = strategy.experimental_local_results(value)
    return [np.asarray(part) for part in parts]


def hashes(strategy: Any, variables: list[Any]) -> dict[str, list[str]]:
    """Returns a hash of each replica's part of each variable."""
    return {
        v.path: [
            hashlib.md5(part.tobytes()).hexdigest()
            for part in local(strategy, v.value)
        ]
        for v in variables
    }


class Trainer:
    """A model, its optimizer and its step, in a custom loop.

    `norm` is beside the model: only its averages count.
    """

    def __init__(self, strategy: Any, **options: Any) -> None:
        self.strategy = strategy
        with strategy.scope():
            self.model = dense()
            self.norm = tfmp.layers.BatchNormalization(
                momentum=0.5, name="norm"
            )
            self.norm.build([None, WIDTH])
            inner = keras.optimizers.SGD(0.01, momentum=0.9, **options)
            self.optimizer = tfmp.optimizers.LossScaleOptimizer(
                inner, growth_steps=3
            )
            self.optimizer.build(self.model.trainable_variables)

    @property
    def variables(self) -> list[Any]:
        layers = [*self.model.variables, *self.norm.variables]
        return [*layers, *self.optimizer.variables]

    def batches(self, steps: int = len(replicas.KINDS)) -> Any:
        x, y, poison = [each[: steps * ROWS] for each in replicas.data()]
        dataset = tf.data.Dataset.from_tensor_slices((x, y, poison))
        return self.strategy.experimental_distribute_dataset(
            dataset.batch(ROWS)
        )

    def step(self, x: tf.Tensor, y: tf.Tensor, poison: tf.Tensor) -> Any:
        variables, optimizer = self.model.trainable_variables, self.optimizer
        with tf.GradientTape() as tape:
            self.norm(x, training=True)
            error = tf.cast(self.model(x, training=True), tf.float32) - y
            loss = tf.reduce_sum(tf.square(error)) / ROWS
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        [state] = all_states(self.model)
        observed = tf.convert_to_tensor(state.variable)[SINCE]
        gradients = [g + tf.reduce_sum(poison) for g in gradients]
        first = [tf.reshape(gradient, [-1]) for gradient in gradients[:2]]
        first = tf.concat(first, axis=0) / optimizer.scale_loss(1.0)
        optimizer.apply(gradients, variables)
        return {"loss": loss, "observed": observed, "gradient": first}

    def run(self, batch: Any) -> Any:
        return self.strategy.run(self.step, args=batch)

    def loss(self, batch: Any) -> tf.Tensor:
        return self.strategy.reduce("SUM", self.run(batch)["loss"], axis=None)

    def report(self) -> dict[str, Any]:
        """Returns what the first replica holds, and hashes of all."""
        values = {v.path: local(self.strategy, v.value) for v in self.variables}
        return {
            "hashes": hashes(self.strategy, self.variables),
            "state": {path: each[0].tolist() for path, each in values.items()},
        }


def steps(strategy: Any) -> list[dict[str, Any]]:
    """Every step of `replicas.data`, in a custom loop."""
    trainer = Trainer(strategy)
    run, seen = tf.function(trainer.run), [trainer.report()]
    for batch in trainer.batches():
        found = run(batch)
        parts = {name: local(strategy, v) for name, v in found.items()}
        mine = {name: np.stack(v).tolist() for name, v in parts.items()}
        seen.append({**trainer.report(), "local": mine})
    return seen


def statistics(strategy: Any) -> str:
    """Returns the error of reading the optimizer's numbers, if there is one."""
    optimizer = Trainer(strategy).optimizer
    return message(lambda: optimizer.statistics)


def many_steps(strategy: Any) -> dict[str, Any]:
    """Three steps in one call: what `steps_per_execution` is for."""
    trainer = Trainer(strategy)

    @tf.function
    def run(iterator: Any) -> tf.Tensor:
        loss = 0.0
        for _ in tf.range(3):
            loss = trainer.loss(next(iterator))
        return loss

    run(iter(trainer.batches()))
    return trainer.report()


def compiled(strategy: Any) -> dict[str, Any]:
    """Three steps whose model and gradients XLA compiles as one program."""
    trainer = Trainer(strategy)
    model, optimizer = trainer.model, trainer.optimizer

    variables, [state] = model.trainable_variables, all_states(model)

    @tf.function(jit_compile=True)
    def gradients(
        trained: Any, seen: Any, x: tf.Tensor, y: tf.Tensor, scale: tf.Tensor
    ) -> Any:
        held = zip([*variables, state.variable], [*trained, seen], strict=True)
        with keras.StatelessScope(held) as scope:
            with tf.GradientTape() as tape:
                tape.watch(trained)
                error = tf.cast(model(x, training=True), tf.float32) - y
                loss = tf.reduce_sum(tf.square(error)) / ROWS * scale
            found = tape.gradient(loss, trained)
        return found, scope.get_current_value(state.variable)

    def step(x: tf.Tensor, y: tf.Tensor, _: tf.Tensor) -> None:
        trained = [tf.convert_to_tensor(v) for v in variables]
        seen, scale = state.variable, optimizer.scale_loss(1.0)
        seen = tf.convert_to_tensor(seen)
        found, seen = gradients(trained, seen, x, y, scale)
        state.variable.assign(seen)
        optimizer.apply(found, variables)

    run = tf.function(lambda batch: strategy.run(step, args=batch))
    for batch in trainer.batches(3):
        run(batch)
    return trainer.report()


def accumulated(strategy: Any) -> list[dict[str, Any]]:
    """Three eager steps, two to an update of the weights."""
    trainer = Trainer(strategy, gradient_accumulation_steps=2)
    seen = [trainer.report()]
    for batch in trainer.batches(3):
        trainer.run(batch)
        seen.append(trainer.report())
    return seen


class Hashes(keras.callbacks.Callback):
    """Keeps the hashes of all variables after each step of `fit`."""

    def __init__(self, strategy: Any) -> None:
        super().__init__()
        self.strategy, self.seen = strategy, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        self.seen.append(hashes(self.strategy, variables))


def fit_and_watch(
    strategy: Any, model: Any, x: np.ndarray, y: np.ndarray
) -> dict[str, Any]:
    """Fits in batches of 16, of which XLA compiles only tfmp's operators."""
    seen, optimizer = Hashes(strategy), model.optimizer
    model.fit(x, y, ROWS, shuffle=False, verbose=0, callbacks=[seen])
    names = {"scale": "dynamic_scale", "skipped": "skipped_steps"}
    found = {
        k: getattr(optimizer, v).numpy()
        for k, v in names.items()
        if hasattr(optimizer, v)
    }
    found["iterations"] = optimizer.iterations.numpy()
    state = {name: float(value) for name, value in found.items()}
    return {"hashes": seen.seen, **state}


def fit(strategy: Any) -> dict[str, Any]:
    """Good, two bad ones, two good ones, and five rows that are left over."""
    rows = np.r_[0:16, 0:16, 0:16, 16:48, 0:5]
    x, y, _ = [each[rows] for each in replicas.data()]
    x[ROWS + 3, 0], x[2 * ROWS + 12, 0] = np.inf, np.nan
    with strategy.scope():
        model = dense()
        inner = keras.optimizers.Adam(0.01, global_clipnorm=10.0, use_ema=True)
        optimizer = tfmp.optimizers.LossScaleOptimizer(inner, growth_steps=3)
        model.compile(optimizer, "mse", jit_compile=False)
    found = fit_and_watch(strategy, model, x, y)
    x, y = x[:ROWS], y[:ROWS]
    predicted = model.predict(x[:13], ROWS, verbose=0).astype("float32")
    outputs = np.asarray(model(x), np.float32)
    return {
        **found,
        "predicted": [predicted.tolist(), outputs[:13].tolist()],
        "losses": [
            float(model.evaluate(x, y, ROWS, verbose=0)),
            float(np.mean(np.square(outputs - y))),
        ],
    }


def converted(strategy: Any) -> dict[str, Any]:
    """A compiled model, converted outside of the scope; then its file.

    Its steps: good, bad in either replica, good.
    """

    def scaled() -> keras.Optimizer:
        adam = keras.optimizers.Adam(0.01)
        return tfmp.optimizers.LossScaleOptimizer(adam, 1.0, dynamic=False)

    return _converted(strategy, scaled, (ROWS + 3, 2 * ROWS + 12))


def converted_without(strategy: Any) -> dict[str, Any]:
    """The same with an optimizer of Keras, and without bad steps."""
    return _converted(strategy, lambda: keras.optimizers.Adam(0.01))


def unlike(strategy: Any) -> dict[str, Any]:
    """Rows that are 1000 times larger on the last replica, by Keras' SGD."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=[16 * ROWS, 16]).astype("float32")
    y, half = rng.normal(size=[16 * ROWS, 16]), ROWS // 2
    for start in range(half, len(x), ROWS):
        x[start : start + half] *= 1000.0
    found = {}
    for policy in ("mixed_bfloat16", "mixed_float8"):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layer = tfmp.layers.Dense(16, use_bias=False, dtype=policy)
            model = keras.Sequential([keras.Input([16]), layer])
            optimizer = keras.optimizers.SGD(1e-8)
            model.compile(optimizer, "mse", jit_compile=False)
        fit = model.fit(x, y, ROWS, shuffle=False, verbose=0)
        found[policy] = fit.history["loss"][-1]
    return found


def _converted(
    strategy: Any,
    make: Callable[[], keras.Optimizer],
    bad: Sequence[int] = (),
) -> dict[str, Any]:
    x = np.random.default_rng(0).normal(size=[4 * ROWS, 3, 3, 16])
    x, y = x.astype("float32"), x.mean(axis=(1, 2, 3))[:, np.newaxis]
    x[list(bad), 0, 0, 0] = np.inf
    with strategy.scope():
        layers = [
            keras.layers.Conv2D(16, 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, dtype="float32"),
        ]
        model = keras.Sequential([keras.Input([3, 3, 16]), *layers])
        optimizer = make()
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, "mse", jit_compile=False)
    tfmp.convert(model)
    found = fit_and_watch(strategy, model, x, y)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        with strategy.scope():
            loaded = keras.models.load_model(path)
    variables = [*loaded.variables, *loaded.optimizer.variables]
    found["loaded"] = list(hashes(strategy, variables).values())
    found["amax"] = [_amax(strategy, each) for each in (model, loaded)]
    return found


def _amax(strategy: Any, model: Any) -> list[Any]:
    """Returns what each replica assumes of each layer, and what is saved."""
    states = all_states(model)

    def every() -> tf.Tensor:
        return tf.stack([state.amax for state in states])

    parts = local(strategy, strategy.run(every))
    return np.stack([*parts, every()]).tolist()
