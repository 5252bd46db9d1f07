"""Runs the Fashion-MNIST example as a user does, on the shipped subset."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import fashion_mnist as example
import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import app, flags
from absl.testing import flagsaver
from matplotlib import figure

import tfmp

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parent.parent
POLICIES = ("mixed_bfloat16", "mixed_float8")
STEPS = 39
FP8_PRODUCTS = {"E4M3xE4M3": 2, "E5M2xE4M3": 1, "E4M3xE5M2": 2}


def run_example(
    folder: pathlib.Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(filter(None, [str(ROOT), before]))
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "fashion_mnist.py"), *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("fashion_mnist")


@pytest.fixture(scope="module")
def done(folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """One epoch of one seed, of two policies."""
    return run_example(
        folder,
        f"--policies={','.join(POLICIES)}",
        "--seeds=1",
        "--epochs=1",
        "--batch_size=256",
        "--output=made/here",
    )


@pytest.fixture(scope="module")
def results(folder, done) -> dict:
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "made/here/results.json").read_text())


def test_it_prints_the_table(done, results):
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for policy, of in zip(POLICIES, ("0 of 8", "5 of 8"), strict=True):
        row = results["table"][policy]
        accuracy = re.escape(f"{row['test_accuracy']:.2f} %")
        points = re.escape(f"{row['points_from_bfloat16']:+.2f}")
        line = rf"{policy} +{accuracy} +{points} +[\d.]+ ms +{of}"
        assert any(re.fullmatch(line, text) for text in lines)


def test_it_prints_which_layers_ran_in_which_precision(done, results):
    text = " ".join(done.stdout.split())
    wide = "bfloat16; float32 variables"
    assert f"mixed_bfloat16 hidden_1, hidden_2, logits {wide}" in text
    fp8 = "E4M3xE4M3, E5M2xE4M3, E4M3xE5M2; float32 variables"
    assert f"mixed_float8 hidden_1, hidden_2 {fp8}" in text
    assert f"mixed_float8 logits {wide}" in text


def test_it_shows_its_progress(done, results):
    assert "[1/2] mixed_bfloat16, seed 0" in done.stdout
    assert "[2/2] mixed_float8, seed 0" in done.stdout
    assert f"{STEPS}/{STEPS}" in done.stdout


def test_it_writes_the_results(results):
    assert results["flags"]["epochs"] == 1
    assert results["flags"]["policies"] == list(POLICIES)
    assert results["versions"]["tensorflow"] == tf.__version__
    assert set(results["table"]) == set(POLICIES)
    for policy, run in zip(POLICIES, results["runs"], strict=True):
        row = results["table"][policy]
        assert (run["policy"], run["seed"]) == (policy, 0)
        assert run["test_accuracy"] == row["test_accuracy"] > 50
        assert run["step_ms"] == row["step_ms"] > 0
        assert row["deviation"] is None
        assert run["accuracies"] == [run["test_accuracy"]]
        assert run["skipped_steps"] == 0
        assert len(run["losses"]) == STEPS
        assert np.isfinite(run["losses"]).all()


def test_losses_are_of_single_steps(results):
    first, *_, last = results["runs"][0]["losses"]
    assert first == pytest.approx(np.log(10), abs=0.5)
    assert last < 1


def test_a_seed_gives_the_same_weights_and_batches(results):
    bfloat16, float8 = (run["losses"] for run in results["runs"])
    # The same up to FP8: two other batches differ by several times this.
    np.testing.assert_allclose(float8[:10], bfloat16[:10], rtol=0.02)


def test_products_are_counted_in_the_program(results):
    bfloat16, float8 = (run["products"] for run in results["runs"])
    assert bfloat16 == {"bf16xbf16": 8}
    assert float8 == {"bf16xbf16": 3, **FP8_PRODUCTS}


def test_scales_are_recorded(results):
    bfloat16, float8 = (run["scales"] for run in results["runs"])
    assert bfloat16 == []
    assert float8[-1]["step"] == STEPS
    scales = {k: v for k, v in float8[-1].items() if k.endswith("/scale")}
    assert len(scales) == 6
    # Images reach 1, and 256 is the power of two that fits E4M3's 448.
    assert scales["sequential/hidden_1/inputs/scale"] == 256


def test_it_draws_a_picture(folder, results):
    png = (folder / "made/here/fashion_mnist.png").read_bytes()
    assert 20_000 < len(png) < 1_000_000
    height, width, channels = tf.io.decode_png(png).shape
    assert (height, width, channels) == (576, 1440, 4)
    left, right = np.split(tf.io.decode_png(png, channels=3).numpy(), 2, axis=1)
    for half in (left, right):
        assert 0.01 < np.mean(half < 255) < 0.5


def test_the_picture_has_the_differences_from_float32():
    runs = [
        {"policy": policy, "accuracies": [first + gain, 80 + gain]}
        for first in (70, 60)  # one seed each
        for policy, gain in (("float32", 0), ("mixed_float8", first / 100))
    ]
    axes = figure.Figure().subplots()
    example.report.draw_differences(runs, axes)
    zero, points = axes.lines
    assert list(zero.get_ydata()) == [0, 0]
    np.testing.assert_allclose(points.get_ydata(), [0.65, 0.65])
    band, ranges = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (-5, 5)
    (low, high) = ranges.get_segments()[0][:, 1]
    np.testing.assert_allclose([low, high], [0.6, 0.7])


def test_a_wrong_flag_ends_it(tmp_path):
    failed = run_example(tmp_path, "--data_dir=here")
    assert failed.returncode == 1
    said = "`data_dir` must be None unless .*'here'"
    assert re.search(said, failed.stderr + failed.stdout)
    assert "Traceback" not in failed.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def parse():
    """Returns a function that sets the example's flags, until the test ends."""
    before = set(flags.FLAGS)
    example.define_flags()
    with flagsaver.flagsaver():
        yield lambda *given: flags.FLAGS(["fashion_mnist", *given])
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_a_wrong_policy_is_told(parse):
    said = "--policies=.*different names out of"
    with pytest.raises(flags.IllegalFlagValueError, match=said):
        parse("--policies=float32,float8")


def test_a_wrong_batch_size_is_told(parse, tmp_path):
    parse("--batch_size=10001", f"--output={tmp_path / 'made'}")
    said = "`batch_size` must be from 1 to 10000.*10001"
    with pytest.raises(app.UsageError, match=said):
        example.main(["fashion_mnist"])
    assert not list(tmp_path.iterdir())


def test_initial_weights_are_those_of_the_seed():
    kernels = []
    for policy in example.report.COLORS:
        keras.utils.set_random_seed(3)
        with tfmp.policy_scope(policy, convert=False):
            model = example.make_model()
        kernels.append([layer.kernel for layer in model.layers[1:4]])
    for other in kernels[1:]:
        for one, two in zip(kernels[0], other, strict=True):
            np.testing.assert_array_equal(one, two)
    assert np.std(kernels[0][0]) > 0


def test_a_round_trip_through_float8_is_not_counted_as_fp8():
    """Keras' float8 multiplies in bfloat16, unless XLA finds the pattern."""
    layer = keras.layers.Dense(16, dtype="float8_from_mixed_bfloat16")
    model = keras.Sequential(
        [keras.Input([28, 28]), keras.layers.Flatten(), layer]
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(True))
    assert example.products(model, 16) == {"bf16xbf16": 2}
