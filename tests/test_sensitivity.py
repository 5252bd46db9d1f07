"""What each layer's precision costs: estimated, measured, and left no trace."""

from __future__ import annotations

import dataclasses
import math

import keras
import models
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tfmp
from tfmp import analysis
from tfmp.analysis import batches
from tfmp.analysis.variants import ROLES
from tfmp.conversion.records import flatten

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
USUAL = ("mixed_float8", "mixed_bfloat16")
METHODS = pytest.mark.parametrize("method", ["estimate", "measure"])


def data(shape, classes=10, samples=32, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((samples, *shape)).astype("float32")
    return x, random.integers(0, classes, samples)


def network():
    """A convolution that FP8 is for, one that it is not, and more."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Conv2D(16, 3, activation="relu", name="stem"),
            keras.layers.Conv2D(16, 3, activation="gelu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(10, name="head"),
        ],
        name="net",
    )


@pytest.fixture(scope="module")
def model():
    """Compiled, and trained for a step: optimizer and function exist."""
    made = network()
    made.compile(keras.optimizers.Adam(1e-3), LOSS, jit_compile=False)
    made.fit(*data([8, 8, 3]), verbose=0)
    return made


@pytest.fixture(scope="module")
def untouched(model):
    """The state of the model before the first analysis of it."""
    return state(model)


@pytest.fixture(scope="module")
def found(model, untouched):
    """Both ways, of the same model and data."""
    return {
        method: analysis.sensitivity(
            model,
            data([8, 8, 3], samples=64),
            candidates=USUAL,
            method=method,
            verbose=False,
        )
        for method in ("estimate", "measure")
    }


def state(model):
    """Everything that an analysis could leave changed, by value."""
    layers = flatten(model).values()
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else [])]
    return (
        [(type(x), x.dtype_policy, sorted(vars(x))) for x in layers],
        [v.numpy().tobytes() for v in variables],
        [getattr(model, f"{k}_function", None) for k in ("train", "test")],
        [getattr(x, "activation", None) for x in layers],
    )


@pytest.mark.slow
def test_both_ways_agree(found):
    """Rank correlation, and size: of all roles, and of each."""
    for role in ("layer", "inputs", "kernel"):
        agreement = analysis.compare(*found.values(), role=role)
        assert agreement.spearman["loss_rms"] > 0.95
        assert agreement.spearman["loss_change"] > 0.8
        assert agreement.ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_both_ways_see_the_same_tensors(found):
    first, second = (
        {(r.layer, r.role, r.candidate): r for r in each.rows}
        for each in found.values()
    )
    assert first.keys() == second.keys()
    for key, row in first.items():
        if row.role in ("inputs", "kernel"):
            assert row.sqnr == pytest.approx(second[key].sqnr, abs=0.1)


def test_rows_are_the_layers_that_take_a_candidate(found):
    rows = found["estimate"].rows
    low = {row.layer for row in rows if row.candidate == "mixed_float8"}
    assert low == {"net/conv", "net/hidden", "net/head"}
    assert {row.layer for row in rows} == low | {"net/stem"}
    assert {row.role for row in rows} == set(ROLES)


def test_rounded_gradients_change_no_loss(found):
    for each in found.values():
        for row in each.only("grads"):
            assert row.loss_rms == 0 and row.output_error == 0
            if row.candidate == "mixed_float8":
                assert 0.002 < row.gradient_error < 0.2
                assert 0.95 < row.gradient_cosine < 1


def test_of_formats_the_coarser_costs_more(found):
    result = found["estimate"]
    rows = {(r.layer, r.candidate): r for r in result.only()}
    for layer in ("net/conv", "net/hidden", "net/head"):
        low, half = (rows[layer, name] for name in USUAL)
        # A mantissa of 3 bits and one of 7: 24 dB between them.
        assert half.sqnr - low.sqnr == pytest.approx(24, abs=6)
        assert low.loss_rms > 4 * half.loss_rms


@METHODS
def test_of_one_layer_it_is_what_numpy_says(method):
    """A linear model under a squared error, whose kernel alone is rounded."""
    keras.utils.set_random_seed(2)
    dense = keras.layers.Dense(4, use_bias=False, name="only")
    model = keras.Sequential([keras.Input([16]), dense], name="net")
    x, _ = data([16])
    y = np.zeros([32, 4], "float32")
    result = analysis.sensitivity(
        model, (x, y), "mse", ("mixed_float8",), method=method, verbose=False
    )
    [row] = result.only("kernel")
    kernel = dense.kernel.numpy()
    scale = tfmp.ops.compute_scale(tfmp.ops.amax(kernel), "E4M3")
    low = tfmp.ops.quantize(kernel, scale, "E4M3")
    low = tfmp.ops.dequantize(low, scale).numpy()
    exact, lowered = x @ kernel, x @ low
    changes = (lowered**2 - exact**2).mean(axis=1)
    if method == "estimate":  # the term of first order
        changes = (2 * exact * (lowered - exact)).mean(axis=1)
    assert row.loss_rms == pytest.approx((changes**2).mean() ** 0.5, rel=0.01)
    assert row.loss_change == pytest.approx(changes.mean(), rel=0.01, abs=1e-5)
    assert row.sqnr == pytest.approx(float(tfmp.ops.sqnr(kernel, low)), abs=0.3)
    error = np.linalg.norm(lowered - exact) / np.linalg.norm(exact)
    assert row.output_error == pytest.approx(error, rel=0.02)
    # 2 * variance / outputs: a squared error as the logarithm of a Gaussian.
    assert result.scale == pytest.approx(2 * result.loss / 4)
    assert result.reference == "float32" and result.samples == 32


@METHODS
def test_nothing_is_left_of_it(model, untouched, method):
    analysis.sensitivity(
        model,
        data([8, 8, 3]),
        method=method,
        roles=["layer", "grads"],
        verbose=False,
    )
    assert state(model) == untouched


@METHODS
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_one_that_fails(model, untouched, method, error):
    """Half-way: in the second batch's loss, then in the middle of a layer."""
    calls = []

    def loss(y, outputs):
        calls.append(1)
        if len(calls) == 4:
            raise error("half-way")
        return keras.losses.sparse_categorical_crossentropy(
            y, outputs, from_logits=True
        )

    with pytest.raises(error, match="half-way"):
        analysis.sensitivity(
            model,
            [data([8, 8, 3], samples=16), data([8, 8, 3], samples=16)],
            loss,
            method=method,
            roles=["layer", "kernel"],
            verbose=False,
        )
    assert state(model) == untouched


def test_training_goes_on_as_without(model, untouched):
    """The same step after an analysis as before it, bit for bit."""
    x, y = data([8, 8, 3], seed=3)
    variables = [*model.variables, *model.optimizer.variables]
    values = [v.numpy() for v in variables]
    results = []
    for analysed in (False, True):
        if analysed:
            analysis.sensitivity(
                model, (x, y), roles=["layer"], samples=32, verbose=False
            )
        model.train_on_batch(x, y)
        results.append([v.numpy().tobytes() for v in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    assert results[0] == results[1]
    assert state(model) == untouched


@pytest.mark.slow
def test_models_of_all_kinds():
    """Attention, layers in lists, some already in FP8: none has a trace."""
    model = models.subclassed()
    tfmp.convert(model, filter="all")
    x, y = data([6, 16], classes=4)
    y = np.zeros([32, 6, 16], "float32")
    before = state(model)
    results = [
        analysis.sensitivity(
            model, (x, y), "mse", method=method, roles=["layer"], verbose=False
        )
        for method in ("estimate", "measure")
    ]
    assert state(model) == before
    rows = {row.layer: row for row in results[0].rows}
    parts = {path.rpartition("/")[2] for path in rows}
    assert {"query", "attention_output", "wide", "narrow", "conv"} <= parts
    # Scores and values are in 16 bits at most, unless a recipe says so.
    low = [r.layer for r in results[0].rows if r.candidate == "mixed_float8"]
    assert not any(path.endswith("/attention") for path in low)
    assert analysis.compare(*results).spearman["loss_rms"] > 0.8


@METHODS
def test_a_subclass_of_a_layer_of_tfmp(method):
    class Own(tfmp.layers.Dense):
        """As a user writes one."""

    model = keras.Sequential(
        [keras.Input([16]), Own(4, dtype="float32", name="a")], name="net"
    )
    given = data([16], classes=4), LOSS, ("mixed_float8",)
    found = analysis.sensitivity(
        model, *given, method=method, roles=["layer"], verbose=False
    )
    assert [row.loss_rms > 0 for row in found.rows] == [True]
    assert type(model.layers[0]) is Own


def test_wider_and_coarser_than_hardware():
    """float64 makes the reference; an emulated format is the worst."""
    model = keras.Sequential(
        [keras.Input([32]), keras.layers.Dense(4, name="a")], name="net"
    )
    emulated = tfmp.Policy("mixed_float8", tfmp.recipes.Emulated("MXFP4"))
    result = analysis.sensitivity(
        model,
        data([32], classes=4),
        LOSS,
        ("float64", "float32", "mixed_float8:current_e4m3", emulated),
        roles=["layer", "kernel"],
        verbose=False,
    )
    assert result.reference == "float64"
    rms = {row.candidate: row.loss_rms for row in result.only()}
    names = ["float64", "float32", "mixed_float8:current_e4m3"]
    assert list(rms) == [*names, "mixed_float8:emulated MXFP4"]
    assert rms["float64"] == 0 < rms["float32"] < 1e-5
    assert sorted(rms.values()) == list(rms.values())
    sqnr = {row.candidate: row.sqnr for row in result.only("kernel")}
    assert sqnr["float64"] == math.inf
    assert sqnr["mixed_float8:emulated MXFP4"] < 25 < sqnr[names[2]]


def test_an_outlier_makes_a_layer_sensitive():
    """FP8 of one scale loses what is small beside an outlier."""
    model = keras.Sequential(
        [
            keras.Input([16]),
            keras.layers.Dense(16, name="a"),
            keras.layers.Dense(4, name="b"),
        ],
        name="net",
    )
    kernel = model.layers[1].kernel.numpy()
    result = []
    for factor in (1.0, 1e6):
        x, y = data([16], classes=4)
        x[:, 0] *= factor
        scaled = model.layers[0].kernel.numpy()
        scaled[0] /= factor  # so that the outputs are of usual size
        model.layers[0].kernel.assign(scaled)
        found = analysis.sensitivity(
            model,
            (x, y),
            LOSS,
            ("mixed_float8",),
            roles=["inputs"],
            verbose=False,
        )
        result.append({row.layer: row.loss_rms for row in found.rows})
    assert result[1]["net/a"] > 5 * result[0]["net/a"]
    assert (model.layers[1].kernel.numpy() == kernel).all()


def test_data_of_all_kinds(model):
    x, y = data([8, 8, 3])
    weight = np.ones(32, "float32")
    sets = (
        (x, y),
        (x, y, weight),
        tf.data.Dataset.from_tensor_slices((x, y)).batch(32),
        [(x[:16], y[:16]), (x[16:], y[16:])],
    )
    seen = [
        analysis.sensitivity(
            model,
            each,
            candidates=["mixed_bfloat16"],
            roles=["kernel"],
            verbose=False,
        )
        for each in sets
    ]
    assert [each.samples for each in seen] == [32] * 4
    same = [s.loss for s in seen[:3]]  # of a batch, which dropout sees whole
    assert same == pytest.approx([same[0]] * 3, 1e-5)


@pytest.mark.parametrize(
    ("samples", "sizes"), [(1, [1]), (40, [32, 8]), (99, [32, 18])]
)
def test_as_many_samples_as_asked_for(samples, sizes):
    x = np.zeros([50, 3])
    assert [batch.size for batch in batches.read(x, samples)] == sizes
    parts = [x[:20], x[20:40], x[40:]]
    whole = [batch.size for batch in batches.read(parts, samples)]
    assert whole == [20, 20, 10][: 1 + (samples > 20) + (samples > 40)]


def test_as_data_text_and_picture(found, tmp_path):
    result = found["estimate"]
    assert analysis.Sensitivity.from_json(result.to_json()) == result
    odd = dataclasses.replace(result.rows[0], sqnr=math.inf, loss_rms=-math.inf)
    odd = dataclasses.replace(result, rows=(odd,), notes=("a note",))
    assert analysis.Sensitivity.from_json(odd.to_json()) == odd
    text = str(result)
    assert len(text.splitlines()) == len(result.rows) + 2
    assert "estimated against float32 on 64 samples" in text
    result.plot(tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes()[:4] == b"\x89PNG"


def test_a_bar_for_long_work(model, capsys):
    analysis.sensitivity(
        model, data([8, 8, 3]), candidates=["float32"], roles=["layer"]
    )
    assert "1/1" in capsys.readouterr().out


def test_spearman_is_scipys():
    random = np.random.default_rng(0)
    for size in (3, 10, 50):
        a = random.integers(0, 6, size).astype(float).tolist()
        b = random.standard_normal(size).tolist()
        expected = scipy.stats.spearmanr(a, b).statistic
        assert analysis.spearman(a, b) == pytest.approx(expected)
    assert math.isnan(analysis.spearman([1.0, 1.0], [1.0, 2.0]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": 3}, "`model` must be a keras.Model"),
        ({"data": "x"}, "`data` must be arrays"),
        ({"data": ()}, "`data` must be arrays"),
        ({"data": [(1.0, 2.0)]}, "`data` must be .*a first axis"),
        ({"data": [(None, None)]}, "`data` must be .*a first axis"),
        ({"data": [({}, np.ones(3))]}, "`data` must be .*a first axis"),
        ({"data": (np.ones([2, 3]), np.ones([3]))}, "different lengths"),
        ({"loss": "nonsense"}, "`loss` must be a loss of Keras"),
        ({"candidates": "float32"}, "`candidates` must be a tuple"),
        ({"candidates": ["float32", "float32"]}, "each once"),
        ({"candidates": ["int8"]}, "`candidates` must be a tuple"),
        ({"method": "guess"}, "`method` must be one of"),
        ({"roles": ["bias"]}, "`roles` must be one of"),
        ({"samples": 0}, "`samples` must be 1 or more"),
        ({"data": data([8, 8, 3])[0]}, "`data` must have labels"),
    ],
)
def test_what_is_not_allowed(model, changed, message):
    good = {"model": model, "data": data([8, 8, 3])}
    with pytest.raises((TypeError, ValueError), match=message) as error:
        analysis.sensitivity(**{**good, **changed})
    assert "Received: " in str(error.value)
