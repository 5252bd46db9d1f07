"""Time, memory and agreement of models that only predict."""

from __future__ import annotations

import gc
import math
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._comparing.comparison import Latency
from tfmp._core import quantization

GPU = "GPU:0"
OWN = pathlib.Path("/proc/self")


def compiled(model: keras.Model) -> Callable[[Any], Any]:
    """Returns a model's call in inference, compiled as its `predict` is."""

    def call(x: Any) -> Any:
        return model(x, training=False)

    found: Callable[[Any], Any] = tf.function(
        call,
        jit_compile=bool(getattr(model, "jit_compile", True)),
        autograph=False,
    )
    return found


def first(x: Any, count: int) -> Any:
    """Returns so many samples as tensors, again from the start if too few."""
    return keras.tree.map_structure(
        lambda array: tf.constant(
            np.take(array, np.arange(count), axis=0, mode="wrap")
        ),
        x,
    )


def latencies(
    calls: Mapping[str, Callable[[Any], Any]],
    batches: Mapping[int, Any],
    runs: int,
) -> dict[str, dict[int, Latency]]:
    """Times calls in turns, so that a busy machine is as busy for all.

    Args:
        calls: by the names of their models; compiled before they are timed.
        batches: what to call them on, by batch size.
        runs: how often each is timed.
    """
    found: dict[str, dict[int, Latency]] = {name: {} for name in calls}
    for size, batch in batches.items():
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            _wait(call(batch))
        gc.collect()
        for _ in range(runs):
            for name, call in calls.items():
                start = time.perf_counter()
                _wait(call(batch))
                seconds[name].append(time.perf_counter() - start)
        for name, each in seconds.items():
            median, p95 = np.percentile(each, [50, 95])
            found[name][size] = Latency(float(median), float(p95))
    return found


def _wait(outputs: Any) -> None:
    for tensor in keras.tree.flatten(outputs):
        np.asarray(tensor)


def peak_bytes(call: Callable[[Any], Any], batch: Any) -> int | None:
    """Returns the most memory that a call had in use.

    On a GPU, all that TensorFlow had there.  On Linux, the high-water mark of
    the process, above what it had before; None where neither is known.
    """
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.reset_memory_stats(GPU)
        _wait(call(batch))
        return int(tf.config.experimental.get_memory_info(GPU)["peak"])
    try:
        (OWN / "clear_refs").write_text("5")
        before = _status("VmRSS")
        _wait(call(batch))
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", (OWN / "status").read_text())
    if found is None:
        raise OSError(f"/proc has no {name}")
    return 1024 * int(found[1])


def weight_bytes(model: keras.Model) -> int:
    """Returns the bytes of a model's variables, without random seeds."""
    every = {
        id(v): v for v in model.variables if "seed" not in v.path.split("/")[-1]
    }
    return sum(
        int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size
        for v in every.values()
    )


def sqnr(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Returns the worst SQNR of several outputs, in dB; NaN is the worst."""
    ratios = [
        float(quantization.sqnr(tf.cast(x, "float32"), tf.cast(y, "float32")))
        for x, y in zip(expected, found, strict=True)
    ]
    return min(ratios, key=lambda ratio: (not math.isnan(ratio), ratio))
