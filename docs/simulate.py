"""Short simulations for the pictures, with the rules that training runs."""

from __future__ import annotations

from typing import Any

import keras
import measure
import numpy as np
import tensorflow as tf

from tfmp import formats, ops, optimizers, recipes
from tfmp._core import scaling

STEPS = 80


def amax_of_steps() -> np.ndarray:
    """Returns how large the values of each step are.

    Steady, with one outlier at step 20 and a growth from step 50 on.
    """
    size = np.full(STEPS, 1.0, np.float32)
    size[20] = 30000
    size[50:] = np.minimum(1.5 ** np.arange(1, STEPS - 49), 100)
    return size


def scalings(size: np.ndarray) -> dict[str, Any]:
    """Runs delayed and current scaling over normal values of these sizes.

    Returns:
        `"observed"`: the amax of each step; `"delayed"` and `"current"`: the
        largest value that fits, and the SQNR in dB, of each step.
    """
    f = formats.E4M3
    length = recipes.DelayedScaling().amax_history_len
    history, window = tf.zeros([length, 1]), tf.ones([length, 1], tf.bool)
    history = scaling.push(history, tf.constant([3.0]))
    observed: list[float] = []
    runs: dict[str, list[tuple[float, float]]] = {"delayed": [], "current": []}
    for step, s in enumerate(size):
        x = measure.normal(step)[:4096] * s
        now = ops.amax(x)
        assumed = {
            "delayed": scaling.window_amax(history, window)[0],
            "current": now,
        }
        for name, amax in assumed.items():
            scale = float(ops.compute_scale(amax, f))
            error = ops.sqnr(x, measure.round_to(x, f, scale))
            runs[name].append((f.max / scale, float(error)))
        history = scaling.push(history, now[tf.newaxis])
        observed.append(float(now))
    pairs = {name: np.transpose(pair) for name, pair in runs.items()}
    return {"observed": observed, **pairs}


def loss_scales(steps: int = 400) -> tuple[list[float], list[int], list[float]]:
    """Runs `LossScaleOptimizer` on float16 gradients that come and go.

    Returns:
        The loss scale before each step, the steps that were skipped, and the
        largest loss scale whose gradient float16 can hold.
    """
    variable = keras.Variable(0.0)
    optimizer = optimizers.LossScaleOptimizer("sgd", growth_steps=20)
    optimizer.build([variable])
    gradients = 2.0 ** (4 * np.sin(np.arange(steps) / 60) - 1)
    scales, skipped = [], []
    for step, gradient in enumerate(gradients.astype(np.float32)):
        scales.append(float(optimizer.dynamic_scale.numpy()))
        scaled = tf.cast(optimizer.scale_loss(tf.constant(gradient)), "float16")
        optimizer.apply([tf.cast(scaled, tf.float32)], [variable])
        if optimizer.statistics["skipped_in_a_row"]:
            skipped.append(step)
    return scales, skipped, list(formats.FLOAT16.max / gradients)
