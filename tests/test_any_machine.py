"""A model moves between precisions and files: equal weights, or clear words."""

from __future__ import annotations

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp

PRECISIONS = (
    *("float32", "mixed_float16", "mixed_bfloat16"),
    *("mixed_float8", "mixed_float8:current", "frozen"),
)
PAIRS = list(itertools.product(PRECISIONS, PRECISIONS))


def net(precision, seed=0, compiled=True):
    """Dense layers and one that is not in FP8, trained for two steps."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(16, "relu", name="hidden"),
        keras.layers.LayerNormalization(name="norm"),
        keras.layers.Dense(16, name="head"),
    ]
    model = keras.Sequential([keras.Input([16]), *layers], name="net")
    policy = "mixed_float8" if precision == "frozen" else precision
    if policy != "float32":
        tfmp.convert(model, policy, filter="all")
    if compiled:
        model.compile("adam", "mse", jit_compile=False)
        for _ in range(2):
            model.train_on_batch(x(), x())
    if precision == "frozen":
        tfmp.freeze(model)
    return model


def x():
    return np.random.default_rng(1).normal(size=[8, 16]).astype("float32")


@pytest.fixture(scope="module")
def trained():
    return {name: net(name) for name in PRECISIONS}


def kernels(model):
    return [
        np.asarray(model.get_layer(name).kernel) for name in ("hidden", "head")
    ]


def check_equal(one, other, read):
    """Holds what was read against what was saved.

    A frozen model quantizes a kernel of float32, which moves it by half a unit
    of E4M3's last place, of the largest weight.
    """
    for a, b in zip(kernels(one), kernels(other), strict=True):
        if read == "frozen":
            np.testing.assert_allclose(a, b, atol=np.abs(a).max() * 2**-4)
        else:
            np.testing.assert_array_equal(a, b)
    norms = (m.get_layer("norm").get_weights() for m in (one, other))
    for a, b in zip(*norms, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("saved", "read"), PAIRS)
def test_weights_files(saved, read, trained, tmp_path):
    path = tmp_path / "a.weights.h5"
    trained[saved].save_weights(path)
    other = net(read, seed=1)
    if saved == "frozen" and read != "frozen" and read != "float32":
        before = kernels(other)
        with pytest.raises(ValueError, match=r"tfmp\.(freeze|thaw)"):
            other.load_weights(path)
        for a, b in zip(before, kernels(other), strict=True):
            np.testing.assert_array_equal(a, b)
        return
    if saved == "frozen" and read == "float32":
        with pytest.raises(ValueError):  # of plain Keras, of the shapes
            other.load_weights(path)
        return
    if read == "frozen" and saved in PRECISIONS[:3]:
        with pytest.raises(ValueError, match="amax"):
            other.load_weights(path)
        return
    other.load_weights(path)
    check_equal(trained[saved], other, read)


@pytest.mark.slow
@pytest.mark.parametrize("saved", PRECISIONS)
def test_keras_files_go_on_in_any_precision(saved, trained, tmp_path):
    trained[saved].save(tmp_path / "a.keras")
    for read in PRECISIONS[:-1]:
        other = keras.saving.load_model(tmp_path / "a.keras")
        if saved == "frozen":
            tfmp.thaw(other)
        if read == "float32":
            tfmp.revert(other)
        tfmp.convert(other, read, filter="all")
        check_equal(trained[saved], other, read)
        assert np.isfinite(other.train_on_batch(x(), x()))


@pytest.mark.slow
@pytest.mark.parametrize(("saved", "read"), PAIRS)
def test_tensorflow_checkpoints(saved, read, tmp_path):
    """By the objects that hold weights; an optimizer is in neither model."""
    if (saved == "frozen") != (read == "frozen"):
        pytest.skip("its kernels are of another dtype: files of Keras are read")
    source = net(saved, compiled=False)
    other = net(read, seed=1, compiled=False)
    path = tf.train.Checkpoint(model=source).write(str(tmp_path / "a"))
    tf.train.Checkpoint(model=other).read(path).expect_partial()
    check_equal(source, other, read if saved != read else "")


@pytest.mark.slow
@pytest.mark.parametrize("saved", PRECISIONS)
def test_saved_models_run_without_tfmp(saved, trained, tmp_path):
    model = trained[saved]
    tfmp.export(model, tmp_path / "served", inputs=x())
    np.save(tmp_path / "x.npy", x())
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "served = tf.saved_model.load('served')\n"
        "np.save('y.npy', served.serve(np.load('x.npy')))\n"
        "assert not any('tfmp' in name for name in sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=120
    )
    expected = np.asarray(tf.cast(model(x(), training=False), tf.float32))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=0.02)


@pytest.mark.slow
def test_the_moments_and_the_loss_scale_come_too(tmp_path):
    """From float16 with its loss scale into FP8, in a `.keras` file."""
    model = net("float32")
    tfmp.convert(model, "mixed_float16")
    inner = keras.optimizers.Adam()
    optimizer = tfmp.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    model.compile(optimizer, "mse", jit_compile=False)
    for _ in range(3):
        model.train_on_batch(x(), x())
    model.save(tmp_path / "a.keras")
    other = keras.saving.load_model(tmp_path / "a.keras")
    tfmp.convert(other, "mixed_float8", filter="all")
    assert int(other.optimizer.iterations) == 3
    assert float(other.optimizer.dynamic_scale) == 8.0
    pairs = [
        [v for v in each.variables if "moment" in v.path or "veloc" in v.path]
        for each in (inner, other.optimizer.inner_optimizer)
    ]
    assert len(pairs[0]) == 12
    for before, after in zip(*pairs, strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.isfinite(other.train_on_batch(x(), x()))
