"""Weights files: what loads, and what a broken one does to a model."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import random
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp import checkpoints
from tfmp._support import sealed_files
from tfmp.layers.float8_state import all_states

ROOT = pathlib.Path(__file__).resolve().parent.parent


def make(units=8, last=2, dtype="mixed_float8", wrap=True, length=16):
    """A built model of a dense layer, dropout, and a dense layer."""
    if dtype == "mixed_float8":
        recipe = tfmp.recipes.DelayedScaling(amax_history_len=length)
        dtype = tfmp.Policy(dtype, recipe)
    model = keras.Sequential(
        [
            keras.Input([4]),
            tfmp.layers.Dense(units, dtype=dtype, name="first"),
            tfmp.layers.BatchNormalization(dtype=dtype),
            keras.layers.Dropout(0.5, seed=1, dtype=dtype),
            tfmp.layers.Dense(last, dtype=dtype, name="last"),
        ]
    )
    adam = keras.optimizers.Adam(0.01)
    model.compile(
        tfmp.optimizers.LossScaleOptimizer(adam) if wrap else adam, "mse"
    )
    model.optimizer.build(model.trainable_variables)
    return model


def values(model):
    return [np.array(v.numpy()) for v in checkpoints.variables(model)]


def kept(model):
    """All that a file keeps: of FP8 state, what the next pass assumes."""
    states = {id(state.variable): state for state in all_states(model)}
    return [
        np.array((states[id(v)].amax if id(v) in states else v).numpy())
        for v in checkpoints.variables(model)
    ]


def same(ours, theirs):
    return [(v.dtype, v.shape, v.tobytes()) for v in ours] == [
        (v.dtype, v.shape, v.tobytes()) for v in theirs
    ]


def scramble(model, seed=0):
    """Gives every variable a value that it would not have by itself."""
    dice = np.random.default_rng(seed)
    for variable in checkpoints.variables(model):
        variable.assign(dice.integers(1, 100, size=variable.shape))
    for state in all_states(model):  # as it is between two steps
        state.assume(dice.integers(1, 100, size=3))


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture
def path(tmp_path, model):
    scramble(model)
    path = tmp_path / "a.weights.h5"
    checkpoints.save_weights(model, path, {"step": 100})
    return path


def check_fails(model, path, match=None):
    """A load fails with an error that names the file, and changes nothing."""
    scramble(model, seed=1)
    before = values(model)
    with pytest.raises(ValueError, match=match) as error:
        checkpoints.load_weights(model, path)
    assert "`path`" in str(error.value) and str(path) in str(error.value)
    assert same(before, values(model))


def test_round_trip(model, path):
    saved = kept(model)
    assert any(v.shape == (2,) and v.dtype.kind in "iu" for v in saved)
    assert len([v for v in saved if v.shape == (3,) and v.all()]) == 2
    scramble(model, seed=1)
    assert not same(saved, kept(model))
    assert checkpoints.load_weights(model, path) == {"step": 100}
    assert checkpoints.read_notes(path) == {"step": 100}
    assert same(saved, kept(model))
    other = make()
    checkpoints.load_weights(other, path)
    assert same(saved, kept(other))


def test_keras_reads_it(model, path):
    weights = model.get_weights()
    other = make()
    other.load_weights(path)
    assert same(weights, other.get_weights())


def test_digest_is_that_of_standard_tools(path):
    first, rest = path.read_bytes().split(b"\n", 1)
    assert first == b"tfmp sha256 " + hashlib.sha256(rest).hexdigest().encode()
    assert path.read_bytes().index(b"\x89HDF") in (512, 1024, 2048, 4096)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_optimizer_is_built_to_be_loaded(model, path):
    other = make()
    other.compile(tfmp.optimizers.LossScaleOptimizer("adam"), "mse")
    checkpoints.load_weights(other, path)
    assert float(other.optimizer.dynamic_scale) == float(
        model.optimizer.dynamic_scale
    )


@pytest.mark.parametrize("length", [0, 1, 11, 12, 70, 200, 0.3, 0.9, -1])
def test_cut_short(model, path, length):
    content = path.read_bytes()
    size = int(length * len(content)) if isinstance(length, float) else length
    path.write_bytes(content[:size])
    check_fails(model, path)


def test_changed_bytes(model, path):
    """Any byte: of the mark, digest, padding, HDF5's own data, weights."""
    content, dice = path.read_bytes(), random.Random(0)
    places = [*range(0, 600, 13), *dice.choices(range(len(content)), k=40)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        check_fails(model, path)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_files_of_keras(model, path, suffix):
    """Without a digest: what is noticed leaves the model as it was."""
    scramble(model)
    path = path.with_name("b" + suffix)
    (model.save if suffix == ".keras" else model.save_weights)(path)
    scramble(model, seed=1)
    assert checkpoints.load_weights(model, path) == {}
    content, dice = path.read_bytes(), random.Random(0)
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        check_fails(model, path)
    noticed = 0
    scramble(model, seed=1)
    before = values(model)
    for place in dice.choices(range(len(content)), k=30):
        changed = bytearray(content)
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        try:
            checkpoints.load_weights(model, path)
        except ValueError as error:
            noticed += 1
            assert str(path) in str(error) and same(before, values(model))
        scramble(model, seed=1)
    assert noticed >= (25 if suffix == ".keras" else 1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"units": 9}, "first.*shape"),
        ({"last": 3}, "last.*shape"),
    ],
)
def test_another_model(path, arguments, match):
    check_fails(make(**arguments), path, match)


def test_more_and_fewer_layers(path, tmp_path):
    few = keras.Sequential(
        [keras.Input([4]), tfmp.layers.Dense(8, dtype="mixed_float8")]
    )
    check_fails(few, path, "has 1 layers.*'sequential.*/batch_norm")
    other = tmp_path / "few.weights.h5"
    checkpoints.save_weights(few, other)
    check_fails(make(), other, "BatchNormalization name=.*expected 4")


def test_no_weights_file(model, tmp_path):
    text = tmp_path / "text.weights.h5"
    text.write_text("hello")
    check_fails(model, text, "starts with b'hello'")
    with pytest.raises(FileNotFoundError, match=r"none\.weights\.h5"):
        checkpoints.load_weights(model, tmp_path / "none.weights.h5")
    with pytest.raises(ValueError, match=r"end in '.weights.h5' or '.keras'"):
        checkpoints.load_weights(model, "a.h5")
    with pytest.raises(ValueError, match=r"`path` must end in '.weights.h5'"):
        checkpoints.save_weights(model, "a.keras")
    with pytest.raises(TypeError, match="`path` must be a path"):
        checkpoints.load_weights(model, 1)
    with pytest.raises(ValueError, match="`model` must be built"):
        checkpoints.load_weights(keras.Sequential(), text)


@pytest.mark.parametrize(
    "arguments",
    [{"length": 4}, {"length": 32}, {"dtype": "float32"}],
    ids=["shorter", "longer", "plain"],
)
def test_what_is_meant_to_load(model, path, arguments, tmp_path):
    """Another window, or no FP8, into and out of an FP8 model."""
    other = make(**arguments)
    checkpoints.load_weights(other, path)
    kernel = model.get_layer("first").kernel.numpy()
    assert same([kernel], [other.get_layer("first").kernel.numpy()])
    back = tmp_path / "back.weights.h5"
    other.get_layer("first").kernel.assign_add(tf.ones([4, 8]))
    checkpoints.save_weights(other, back)
    checkpoints.load_weights(model, back)
    assert same([kernel + 1], [model.get_layer("first").kernel.numpy()])


def test_random_layers_that_differ_are_warned_of(path):
    other = keras.Sequential([keras.Input([4]), keras.layers.Dense(8)])
    other.add(keras.layers.BatchNormalization())
    other.add(keras.layers.Dense(2))
    with pytest.warns(RuntimeWarning, match="other random layers"):
        checkpoints.load_weights(other, path)


def test_state_that_waits_is_no_random_layer(model, path, tmp_path):
    """Of a layer that has left FP8, into one that never was there."""
    other = make()
    tfmp.set_precision(other, {"first": "mixed_bfloat16"})
    checkpoints.keep_seeds(other)
    amax = [4.0, 5.0, 6.0]
    other.get_layer("first").float8.assume(amax)
    other.save_weights(tmp_path / "b.weights.h5")
    plain = make(dtype="mixed_bfloat16")
    checkpoints.keep_seeds(plain)
    plain.load_weights(tmp_path / "b.weights.h5")
    model.load_weights(tmp_path / "b.weights.h5")
    first = model.get_layer("first")
    np.testing.assert_array_equal(first.amax, amax)
    checkpoints.save_weights(other, tmp_path / "c.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        checkpoints.load_weights(plain, tmp_path / "c.weights.h5")


@pytest.mark.parametrize("seeds", [True, False])
def test_keep_seeds(model, tmp_path, seeds):
    """Keras' own files lack the seeds without it."""
    first, second = make(), make()
    scramble(first)
    if seeds:
        checkpoints.keep_seeds(first)
        checkpoints.keep_seeds(second)
    for name, save in (("a.weights.h5", "save_weights"), ("a.keras", "save")):
        getattr(first, save)(tmp_path / name)
        scramble(second, seed=1)
        second.load_weights(tmp_path / name)
        count = len(first.variables)
        ours, theirs = (kept(each)[:count] for each in (first, second))
        assert same(ours, theirs) == seeds
        model.load_weights(tmp_path / name)


def test_a_save_that_fails_leaves_the_old_file(model, path, monkeypatch):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="`notes` must be"):
        checkpoints.save_weights(model, path, {"a": object()})

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr(sealed_files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save_weights(model, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_remains_of_a_killed_process_go_in_time(model, path):
    remains = [path.with_name(f".{path.name}.{n}.part") for n in range(2)]
    other = path.with_name(".b.weights.h5.0.part")
    for each in (*remains, other):
        each.write_bytes(b"half")
    for each in (remains[0], other):
        os.utime(each, (0, 0))
    checkpoints.save_weights(model, path)
    left = sorted(p.name for p in path.parent.iterdir())
    assert left == sorted([path.name, remains[1].name, other.name])


def test_notes_of_any_length(tmp_path):
    for length in range(380, 520):
        path = tmp_path / "a"
        sealed_files.write(path, lambda: io.BytesIO(b"body"), "x" * length)
        with open(path, "rb") as file:
            assert sealed_files.read(file, path) == "x" * length
        assert path.stat().st_size in (516, 1028)


@pytest.mark.parametrize("fault", ["changed", "cut", "another model"])
def test_tf_checkpoint(model, tmp_path, fault):
    """TensorFlow notices, if not in clear words; the model is as it was."""
    saved = make(units=9) if fault == "another model" else model
    scramble(saved)
    state = [v.value for v in checkpoints.variables(saved)]
    prefix = tf.train.Checkpoint(state=state).save(tmp_path / "c")
    data = pathlib.Path(prefix + ".data-00000-of-00001")
    content = bytearray(data.read_bytes())
    if fault == "changed":
        content[-1] ^= 1
    data.write_bytes(content[:-40] if fault == "cut" else content)
    scramble(model, seed=1)
    before = values(model)
    ours = [v.value for v in checkpoints.variables(model)]
    reader = tf.train.Checkpoint(state=ours)
    with (
        pytest.raises((ValueError, IndexError, tf.errors.OpError)),
        checkpoints.all_or_nothing(model),
    ):
        reader.restore(prefix).assert_consumed()
    assert same(before, values(model))


def test_no_pickle():
    """Nothing that is loaded may run code."""
    for path in (ROOT / "tfmp").rglob("*.py"):
        found = re.findall(
            r"\b(?:c?[Pp]ickle|dill|joblib|marshal|shelve|eval|exec)\b"
            r"|safe_mode\s*=\s*False|allow_pickle\s*=\s*True",
            path.read_text(),
        )
        assert not found, path
