"""What the rows of `fuzz_table` are made of: good arguments, small models."""

from __future__ import annotations

import functools
import inspect
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from fuzz_tries import Entry

import tfmp
from tfmp.conversion.sizes import Sizes

POLICY = tfmp.Policy("mixed_float8")
# Calls that check alone, that compute, that trace, that compile a program.
CHECKS, COMPUTES, TRACES, COMPILES = 50.0, 50.0, 15.0, 3.0


def row(call: Callable[..., Any], weight: float = CHECKS, **good: Any) -> Entry:
    """Returns an entry; arguments that are not given have their defaults.

    Args:
        call: what is called.
        weight: of the entry.
        **good: values that no call changes.
    """
    return made(call, lambda: good, weight)


def made(
    call: Callable[..., Any],
    good: Callable[[], dict[str, Any]],
    weight: float,
    **more: Any,
) -> Entry:
    """Returns an entry whose good values are made for each try."""
    usual = defaults(call)
    return Entry(call, lambda: {**usual, **good()}, weight, **more)


def defaults(call: Callable[..., Any]) -> dict[str, Any]:
    """Returns the default values of a callable's arguments."""
    every = inspect.signature(call).parameters.values()
    return {p.name: p.default for p in every if p.default is not p.empty}


def shown(cls: type) -> Callable[..., str]:
    """Returns what makes a value of a class, and prints it."""

    @functools.wraps(cls)
    def call(**given: Any) -> str:
        return str(cls(**given))

    return call


def x(*shape: int) -> tf.Tensor:
    """Returns ones."""
    return tf.ones(shape or (2, 16))


def model(*layers: keras.Layer, built: bool = True) -> keras.Model:
    """Returns a small model of two layers, or of others."""
    dense = keras.layers.Dense
    every = layers or (dense(16, name="body"), dense(4, name="head"))
    return keras.Sequential([keras.Input([16])] * built + list(every))


@functools.cache
def trained() -> dict[str, Any]:
    """Returns a model in FP8, its gradients and variables."""
    both = model(tfmp.layers.Dense(4, dtype="mixed_float8"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(both(x()))
    variables = both.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in variables])
    return {"model": both, "gradients": gradients, "variables": variables}


def trained_alone() -> keras.Model:
    """Returns a model in FP8 that no other call has."""
    both = model(tfmp.layers.Dense(4, dtype="mixed_float8"))
    both.compile("sgd", "mse")
    return both


def frozen() -> keras.Model:
    """Returns a model that is frozen."""
    found = trained_alone()
    tfmp.freeze(found)
    return found


def scope(policy: Any, convert: Any = False) -> None:
    """Enters a scope and leaves it."""
    with tfmp.policy_scope(policy, convert):
        pass


def report(**given: Any) -> str:
    """Looks at all of a model's report."""
    found = tfmp.ConversionReport(**given)
    return f"{found} {found.to_dict()}"


@functools.wraps(tfmp.Inspection)
def inspection(**given: Any) -> str:
    """Looks at all of an inspection."""
    found = tfmp.Inspection(**given)
    return f"{found} {found.to_dict()}"


def inspected(inspect: Callable[..., Any], **given: Any) -> str:
    """Looks at all that is inspected."""
    subject, x = given.pop("model_or_function"), given.pop("inputs")
    found = inspect(subject, x, **given)
    return f"{found} {found.to_dict()}"


REPORTED = {"rule": "", "sizes": Sizes(), "notes": (), "inputs": None}


def written(content: Any) -> str:
    """Writes a file of a text, or of something else as JSON."""
    path = pathlib.Path("written.json")
    if not isinstance(content, str | bytes):
        content = json.dumps(content, default=str, skipkeys=True)
    if isinstance(content, str):
        content = content.encode(errors="surrogatepass")
    path.write_bytes(content)
    return str(path)


def files(monitor: tfmp.callbacks.ScaleMonitor) -> None:
    """Opens and closes the files of a monitor, as `fit` does."""
    monitor.set_model(trained()["model"])
    monitor.on_train_begin()
    monitor.on_train_end()


def saved() -> str:
    """Returns a weights file of the model of `trained`."""
    if not os.path.exists("saved.weights.h5"):
        tfmp.checkpoints.save_weights(trained()["model"], "saved.weights.h5")
    return "saved.weights.h5"


def logged() -> str:
    """Returns a folder with a log of one sample, which draws nothing."""
    os.makedirs("logs", exist_ok=True)
    pathlib.Path("logs", "scales.jsonl").write_text('{"step": 1}')
    return "logs"


def optimizer(built: bool = True) -> tfmp.optimizers.LossScaleOptimizer:
    """Returns an optimizer, built for the model of `trained`."""
    made = tfmp.optimizers.LossScaleOptimizer("sgd")
    if built:
        made.build(trained()["variables"])
    return made


def traced(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what traces an operator in a graph, and runs nothing."""

    def call(**given: Any) -> None:
        specs = {n: v for n, v in given.items() if isinstance(v, tf.TensorSpec)}
        rest = {n: v for n, v in given.items() if n not in specs}
        function = tf.function(lambda **t: operator(**t, **rest))
        function.get_concrete_function(**specs)

    call.__signature__ = inspect.signature(operator)  # type: ignore[attr-defined]
    return call


def fit(cls: type, inputs: Any, targets: Any) -> None:
    """Trains a model of one layer for two steps."""
    net = model(cls(4, dtype=POLICY if cls is tfmp.layers.Dense else None))
    net.compile(tfmp.optimizers.LossScaleOptimizer("sgd"), "mse")
    net.fit(inputs, targets, batch_size=2, verbose=0)
