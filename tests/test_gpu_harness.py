"""What benchmarks/gpu carries to a GPU is what Keras trains here."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.gpu import arrays, export, programs, tracing, variants
from tfmp._inspection import deviceless, inspected_steps
from tfmp.conversion.sizes import Sizes

STEPS = 6  # more than there are batches
RATE = 1e-4  # of Adam
ULPS = 32 * 2.0**-23
# The layer is causal: its mask is a constant.
TRAINED = (
    ("tiny-layer", "float32"),
    ("tiny-layer", "tfmp delayed"),
    ("tiny-mlp", "tfmp current"),
)
RUN = """\
import pathlib, sys
import jax, numpy
from benchmarks.gpu.execution import Execution
for path in map(pathlib.Path, sys.argv[2:]):
    each = Execution(path, jax.devices("cpu")[0])
    each.start()
    for _ in range(int(sys.argv[1])):
        each.step()
    each.wait()
    found = {k: numpy.asarray(v) for k, v in each.state().items()}
    numpy.savez(path.with_suffix(".npz"), losses=each.losses, **found)
"""


def python_with_jax():
    """The Python that has JAX, None without one."""
    named = os.environ.get(deviceless.VARIABLE)
    here = sys.executable if importlib.util.find_spec("jax") else None
    return named or here


def run_jax(folder, *command):
    """Runs a command in the Python that has JAX, away from TensorFlow."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(folder)
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    return subprocess.run(
        [python_with_jax(), *map(str, command)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )


needs_jax = pytest.mark.skipif(
    "not python_with_jax()",
    reason=f"needs JAX, here or in {deviceless.VARIABLE}",
)


def data(inputs):
    """All batches of each input, one after the other."""
    return tuple(
        np.concatenate(
            [
                arrays.make(each.how, each.shape, each.dtype, number)
                for number in range(each.batches)
            ]
        )
        for each in inputs
    )


def fit(variant):
    """The losses of `model.fit`, and all its variables afterwards."""
    batch = variant.inputs[0].shape[0]
    batches = tf.data.Dataset.from_tensor_slices(data(variant.inputs))
    history = variant.model.fit(
        batches.batch(batch).repeat(),
        epochs=STEPS,
        steps_per_epoch=1,
        shuffle=False,
        verbose=0,
    )
    state = tracing.variables(variant.model)
    return history.history["loss"], {k: v.numpy() for k, v in state.items()}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder of programs, and what Keras makes of each."""
    folder, results = tmp_path_factory.mktemp("programs"), {}
    export.carry(folder)
    for name, precision in TRAINED:
        variant = programs.PROGRAMS[name].make(precision)
        path = export.write(folder, name, precision, variant, "cuda")
        results[path] = fit(variant)
    return folder, results


@needs_jax
def test_the_programs_train_as_keras_does(fitted):
    """The losses, and all that the step changes: Adam's and FP8's state too.

    What a GPU is given runs here as another XLA compiles it, on FP8 operands;
    in float32 only the order of sums differs.
    """
    folder, results = fitted
    (folder / "steps.py").write_text(RUN)
    ended = run_jax(folder, "steps.py", STEPS, *results)
    assert ended.returncode == 0, ended.stderr
    for path, (losses, state) in results.items():
        found = dict(np.load(path.with_suffix(".npz")))
        wide = "float32" in path.name
        error = ULPS if wide else 2.0**-8  # an ulp of bfloat16
        np.testing.assert_allclose(found.pop("losses"), losses, error)
        changed = set(found) - {"x", "y"}
        # All but the step and rate of an optimizer around an optimizer.
        assert changed <= set(state) and len(changed) >= len(state) - 2
        for name in changed:
            check(name, found[name], state[name], wide)


def check(name, found, expected, wide):
    """Holds a variable against Keras' after some steps.

    Adam divides each gradient by its size, so that what is only rounding
    moves a weight too: a key's bias, which softmax does not see, does so in
    float32 already.
    """
    assert found.dtype == expected.dtype
    if np.issubdtype(expected.dtype, np.integer):
        assert (found == expected).all()
    elif "key/bias" in name or "key_bias" in name:
        assert np.abs(found - expected).max() <= 2 * STEPS * RATE
    else:
        error = (ULPS if wide else 2.0**-2) * np.abs(expected).max()
        if not wide and not re.search("adam|amax|loss", name):
            error = 2 * STEPS * RATE
        np.testing.assert_allclose(found, expected, 0, error, err_msg=name)


@needs_jax
def test_a_run_reports_all_and_goes_on_after_a_failure(tmp_path):
    """Times, losses and sizes of all programs but the broken one."""
    export.carry(tmp_path)
    for name, precision in (
        ("tiny-product-32", "bfloat16"),
        ("tiny-product-32", "float8 alone"),
        ("tiny-gradients-32", "tfmp delayed"),
    ):
        variant = programs.PROGRAMS[name].make(precision)
        export.write(tmp_path, name, precision, variant, "cpu")
    broken = tmp_path / "tiny-product-32.float8-alone.mlir.gz"
    broken.write_bytes(gzip.compress(b"module {"))
    out = tmp_path / "results.json"
    options = ("--platform", "cpu", "--steps", 1, "--seconds", 0, "--out", out)
    ended = run_jax(tmp_path, "run.py", tmp_path, *options)
    assert ended.returncode == 1, ended.stderr
    result = json.loads(out.read_text())
    assert (
        result["machine"]["device"] == "cpu" and "run.py" in result["command"]
    )
    product = result["programs"]["tiny-product-32"]
    assert product["bfloat16"]["speed"] == 1
    assert "does not compile" in product["float8 alone"]["error"]
    assert "torch" in str(product["torch._scaled_mm"])
    row = result["programs"]["tiny-gradients-32"]["tfmp delayed"]
    flops = 2 * 3 * 2 * 32**3
    speed = flops / row["milliseconds"] / 1e9
    assert row["tflops_per_second"] == pytest.approx(speed)
    assert row["peak_bytes"] > row["argument_bytes"] > 6 * 2 * 32 * 32
    lines = ended.stdout.splitlines()
    assert len(lines) == 5 and "does not compile" in ended.stdout


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({"full": 2.5}, "bfloat16"),
        ({"values": list(range(6))}, "int64"),
        ({"normal": 3.0, "seed": 7}, "float32"),
        ({"normal": 3.0, "seed": 7}, "float8_e4m3fn"),
        ({"below": 5, "seed": 7}, "int32"),
        ({"text": 50, "seed": 7, "skip": 1}, "int32"),
    ],
)
def test_arrays_are_made_again_as_they_were(how, dtype):
    first, again = (arrays.make(how, (2, 3), dtype) for _ in range(2))
    assert first.shape == (2, 3) and first.dtype.name == dtype
    assert first.tobytes() == again.tobytes()
    if "seed" in how:
        other = arrays.make(how, (2, 3), dtype, number=1)
        assert first.tobytes() != other.tobytes()


def test_arrays_are_as_described():
    normal = arrays.make({"normal": 3.0, "seed": 1}, (100, 100), "float32")
    assert abs(normal.std() - 3) < 0.1
    words, labels = (
        arrays.make({"text": 50, "seed": 1, "skip": k}, (8, 99), "int32")
        for k in (0, 1)
    )
    assert (words[:, 1:] == labels[:, :-1]).all()
    assert words.min() >= 0 and 40 < words.max() < 50
    assert (words == 1).sum() > 2 * (words == 10).sum()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_short_arrays_keep_their_values(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    for value in (np.arange(6).reshape(2, 3) / 3, np.ones([2, 2]), np.ones([])):
        value = value.astype(kind)
        how = json.loads(json.dumps(arrays.describe(value, 1)))
        assert (arrays.make(how, value.shape, dtype) == value).all()
    long = np.random.default_rng(0).normal(0, 2, arrays.LISTED + 1)
    assert arrays.describe(long.astype(kind), 1).keys() == {"normal", "seed"}


def test_constant_masks_are_a_byte_for_each_element():
    """As the MLIR of newer XLA reads them."""
    mask = np.random.default_rng(0).random([7, 19]) < 0.5
    step = inspected_steps.of_function(
        lambda x: tf.where(tf.constant(mask), x, 0.0),
        (tf.TensorSpec([7, 19]),),
        Sizes(),
    )
    text = step.text("stablehlo", "/CPU:0")
    [written] = re.findall(r'dense<"0x(\w+)"> : tensor<7x19xi1>', text)
    assert (np.frombuffer(bytes.fromhex(written), bool) == mask.ravel()).all()
    assert inspected_steps.MASK.sub(inspected_steps._unpacked, text) == text


def test_a_program_must_be_of_its_inputs():
    inputs = [variants.Input("x", (2,), "float32", {"full": 0})]
    text = "func.func @main(%arg0: tensor<3xf32>) -> tensor<3xf32> {"
    with pytest.raises(RuntimeError, match="takes"):
        tracing._feedback(text, inputs, {})
    text = "func.func @main(%arg0: tensor<2xf32>) -> tensor<3xf32> {"
    assert tracing._feedback(text, inputs, {}) == []
    with pytest.raises(RuntimeError, match="do not fit"):
        tracing._feedback(text, inputs, {0: 0})


def test_programs_for_a_gpu_are_of_the_sizes_asked_for():
    names = [n for n in programs.PROGRAMS if not n.startswith(programs.TINY)]
    assert {f"product-{2**n}" for n in range(11, 15)} <= set(names)
    assert {"layer", "gpt-124m", "gpt-774m", "resnet50"} <= set(names)
    for name in names:
        wide, *low = programs.PROGRAMS[name].precisions
        assert "bfloat16" in wide and {"tfmp delayed", "tfmp current"} <= {*low}
