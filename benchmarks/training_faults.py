"""What goes wrong around FP8 in Keras: loss scaling, files, conversion.

Programs 11 to 18; see `float8_faults.py`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from fault_libraries import Keras, Seen, first_words
from float8_faults import compared, compiled, data, dense, sqnr, two_replicas


def bad_values(*arrays: Any) -> int:
    """Returns how many values are not finite."""
    return int(sum((~np.isfinite(array)).sum() for array in arrays))


def with_bad_row(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns data with an inf in one of the 64 rows."""
    x, y = data()
    x[row, 0] = np.inf
    return x, y


def error(function: Callable[[], Any]) -> str:
    """Returns what a function raises; empty if it raises nothing."""
    try:
        function()
    except Exception as raised:
        return first_words(raised)
    return ""


def counted(errors: Iterable[str], what: str) -> Seen:
    """Says how many of several tries failed, and how the first one did."""
    errors = list(errors)
    failed = [found for found in errors if found]
    text = f"{len(errors) - len(failed)} of {len(errors)} {what}"
    return Seen(not failed, "; ".join([text, *failed[:1]]))


def bad_replica(library: Keras) -> Seen:
    """An inf in the gradients of the second of two replicas."""
    strategy = two_replicas()
    with strategy.scope():
        model = keras.Sequential([keras.Input([16]), keras.layers.Dense(1)])
        model.compile(library.loss_scaling(), "mse", jit_compile=False)
    before = [weight.copy() for weight in model.get_weights()]
    x, y = with_bad_row(row=40)
    model.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    count = bad_values(*model.get_weights())
    if count:
        return Seen(False, f"{count} of 17 weights are not finite")
    same = all(map(np.array_equal, before, model.get_weights()))
    return Seen(same, "step skipped" if same else "weights differ")


def bounds(library: Keras) -> Seen:
    """160 overflows in a row, then 160 steps without gradients."""
    x, y = data()
    scales, bad = [], 0
    for batch in (np.nan * x, 0 * x):
        model = keras.Sequential([keras.Input([16]), keras.layers.Dense(1)])
        model.compile(library.loss_scaling(growth_steps=1), "mse")
        for _ in range(160):
            model.train_on_batch(batch, 0 * y)
        scales.append(float(model.optimizer.dynamic_scale))
        model.train_on_batch(x, y)
        bad += bad_values(*model.get_weights())
    text = f"loss scale {scales[0]:.3g}, and {scales[1]:.3g}"
    if bad:
        text += f"; {bad} of 34 weights not finite one step later"
    return Seen(not bad and 0 < scales[0] < scales[1] < np.inf, text)


def skipped_step(library: Keras) -> Seen:
    """A skipped step, with a `BatchNormalization`."""
    normalization = library.layers.BatchNormalization()
    layers = [normalization, keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([16]), *layers])
    model.compile(library.loss_scaling(), "mse")
    x, y = data()
    for batch in ((x, y), with_bad_row(0), (x, y)):
        model.train_on_batch(*batch)
    averages = [normalization.moving_mean, normalization.moving_variance]
    count = bad_values(*map(np.asarray, averages))
    text = f"{count} of 32 moving averages not finite"
    others = bad_values(*model.get_weights()) - count
    return Seen(not count and not others, text)


def automatic_scaling(library: Keras) -> Seen:
    """Compile in float16; reload what has `auto_scale_loss=False`."""
    kind = keras.optimizers.LossScaleOptimizer
    found = []
    for name in library.float16_names:
        with library.policy_scope(name):
            model = compiled_by_name(auto_scale_loss=True)
        has = "scaled" if isinstance(model.optimizer, kind) else "not scaled"
        found.append(f"{name} {has}")
    with library.policy_scope("mixed_float16"):
        model = compiled_by_name(auto_scale_loss=False)
        again = reloaded(model)
    kept = not isinstance(again.optimizer, kind)
    ok = kept and not any("not" in text for text in found)
    found.append(f"`False` {'kept' if kept else 'lost'} on reload")
    return Seen(ok, ", ".join(found))


def reloaded(model: keras.Model) -> keras.Model:
    """Returns what the model's file holds."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return keras.models.load_model(f"{folder}/model.keras")


def compiled_by_name(auto_scale_loss: bool) -> keras.Model:
    """Returns a stock model under the global policy."""
    model = keras.Sequential([keras.Input([16]), keras.layers.Dense(1)])
    model.compile("sgd", "mse", auto_scale_loss=auto_scale_loss)
    return model


def policy_subclass(library: Keras) -> Seen:
    """Load a stock layer that has a `DTypePolicy` subclass."""
    policy = library.policy_subclass()
    layer = keras.layers.Dense(2, dtype=policy)
    model = keras.Sequential([keras.Input([4]), layer])
    again = reloaded(model)
    same = again.layers[0].dtype_policy == policy
    return Seen(same, "loads, " + ("same policy" if same else "another policy"))


def weights_files(library: Keras) -> Seen:
    """Load weights of another history length; with FP8 into without; back."""
    policies = [library.policy(64), library.policy(4), "float32"]
    long, short, plain = (
        keras.Sequential([keras.Input([4]), library.layers.Dense(2, dtype=p)])
        for p in policies
    )
    pairs = [(long, short), (short, long), (plain, long), (long, plain)]
    errors = [error(functools.partial(pass_on, *pair)) for pair in pairs]
    return counted(errors, "load")


def pass_on(saved: keras.Model, loaded: keras.Model) -> None:
    """Loads the one's file into the other; it must bring the kernel."""
    saved.layers[0].kernel.assign(saved.layers[0].kernel + 1)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.weights.h5")
        saved.save_weights(path)
        loaded.load_weights(path)
    kernels = [np.asarray(m.layers[0].kernel) for m in (saved, loaded)]
    np.testing.assert_array_equal(*kernels)


def run_litert(path: str, x: np.ndarray) -> np.ndarray:
    """Returns the output of a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=path).get_signature_runner()
    [name] = run.get_input_details()
    return next(iter(run(**{name: x}).values()))


def run_onnx(path: str, x: np.ndarray) -> np.ndarray:
    """Returns the output of an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


FILES: dict[str, tuple[list[str], Callable]] = {
    "litert": (["ai_edge_litert"], run_litert),
    "onnx": (["tf2onnx", "onnxruntime"], run_onnx),
}


def exported(library: Keras) -> Seen:
    """Export for LiteRT and ONNX, and run the file."""
    model, x = compiled(library, dense(library, activation="relu")), data()[0]
    model.fit(x, np.ones([64, 8]), verbose=0)
    expected = model.predict(x, verbose=0)
    oks, texts = [], []
    for format, (packages, run) in FILES.items():
        if not all(map(importlib.util.find_spec, packages)):
            texts.append(f"{format}: not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.tflite")
            try:
                library.export(model, path, format)
                found = sqnr(expected, run(path, x))
                oks.append(found > 20)
                texts.append(f"{format}: {found:.1f} dB")
            except Exception as raised:
                oks.append(False)
                texts.append(f"{format}: {first_words(raised)}")
    return Seen(all(oks), "; ".join(texts))


def converted(library: Keras) -> Seen:
    """Change a model to FP8 after its optimizer is built, then train."""
    model = keras.Sequential([keras.Input([16]), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    batch = {"batch_size": 64, "verbose": 0}  # all: a window of one has it
    model.fit(*data(), **batch)
    library.convert(model)
    model.fit(*data(), **batch)
    x = data()[0]
    return compared(library, model.layers[0], x)
