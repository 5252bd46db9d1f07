"""The examples on Jane Austen's novels: reading, a GPT with a cache."""

from __future__ import annotations

import gzip
import pathlib
import struct
import zlib
from typing import Any

import keras
import numpy as np
import pytest
import rdata

import tfmp
from examples import language, novels
from examples.harness import files
from examples.harness.settings import Size

FLOAT8 = "mixed_float8"


def object_of_r(value: Any) -> bytes:
    """Returns an object as R writes it."""
    converted = rdata.conversion.convert_python_to_r_data(value)
    return rdata.unparser.unparse_data(converted)


def write_novels(folder: pathlib.Path, novel: dict[str, list[str]]) -> None:
    """Writes lazy-load files of the form of R's package."""
    path = folder / files.UNPACKED / novels.INNER
    path.parent.mkdir(parents=True)
    pieces, places = b"", {}
    for name, lines in novel.items():
        content = object_of_r(np.array(lines))
        piece = struct.pack(">i", len(content)) + zlib.compress(content)
        places[name] = np.array([len(pieces), len(piece)], "int32")
        pieces += piece
    path.write_bytes(pieces)
    index = object_of_r({"variables": places, "references": {}})
    path.with_suffix(".rdx").write_bytes(gzip.compress(index))


def test_novels_are_read_from_files_of_r(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DEBIAN", tmp_path / "none")
    lines = {name: [name.upper(), "", "£ 5"] for name in novels.NOVELS[::-1]}
    write_novels(tmp_path, lines)
    assert novels.read(tmp_path) == ["\n".join(lines[x]) for x in novels.NOVELS]


def test_the_end_of_each_novel_is_to_validate():
    train, held_out = novels.parts(["abcdefghij" * 2, "0123456789"])
    assert train == ["abcdefghijabcdefgh", "012345678"]
    assert held_out == ["ij", "9"]


def test_a_byte_is_to_be_predicted_from_those_before(monkeypatch):
    text = "".join(map(chr, range(32, 127))) * 20
    monkeypatch.setattr(novels, "read", lambda data_dir: [text] * 6)
    (x, y), (later, _) = language.data(Size.USUAL, pathlib.Path())
    assert x.shape[1] == y.shape[1] == language.CONTEXT
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    assert bytes(x[0].tolist()).decode() == text[: language.CONTEXT]
    assert len(later) == 6 * (190 // (language.CONTEXT + 1))


def test_an_epoch_is_a_sample_of_the_batches(monkeypatch):
    monkeypatch.setattr(language, "STEPS", 2)
    numbers = np.arange(40)
    batches = language.Sampled((numbers, numbers), (numbers, numbers)).batches(
        4, seed=0
    )
    epochs = [np.stack([x for x, _ in batches]) for _ in range(2)]
    assert len(batches) == 2 and epochs[0].shape == (2, 4)
    assert set(epochs[0].flat) != set(epochs[1].flat)


def gpt(policy: str) -> keras.Model:
    """A GPT of few bytes, with weights that make it sure of what follows."""
    keras.utils.set_random_seed(0)
    model = language.model(None)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(0.1 * random.standard_normal(weight.shape))
    if policy != "float32":
        tfmp.convert(model, policy, filter="all")
        x = random.integers(0, 256, [2, language.CONTEXT])
        model(x, training=True)  # observes what FP8 scales by
    return model


@pytest.fixture
def small(monkeypatch) -> None:
    for name, size in (("CONTEXT", 12), ("WIDTH", 32), ("HEADS", 2)):
        monkeypatch.setattr(language, name, size)


@pytest.mark.slow_but("float32")
@pytest.mark.parametrize("policy", ["float32", FLOAT8])
def test_a_cache_changes_nothing_of_what_is_written(policy, small):
    """In FP8 too: a trained layer's scales follow from no other token."""
    model = gpt(policy)
    ways = language.with_cache(model), language.without_cache(model)
    for choice in (lambda: language.greedy, lambda: language.sampler(1)):
        texts = [language.generate(way, b"It is", choice()) for way in ways]
        assert texts[0].shape == (1, 12)
        assert bytes(texts[0][0, :5].tolist()) == b"It is"
        np.testing.assert_array_equal(*texts)


@pytest.mark.slow_but("float32")
@pytest.mark.parametrize("policy", ["float32", FLOAT8])
def test_a_cache_changes_scores_by_rounding_at_most(policy, small):
    """Sums may be in another order: a few steps of the compute dtype."""
    model = gpt(policy)
    text = np.random.default_rng(1).integers(0, 256, [2, 12], "int32")
    step = 2.0**-23 if policy == "float32" else 2.0**-8
    following = language.with_cache(model)
    expected = model.predict_on_batch(text).astype("float32")
    for end in range(1, 13):
        found = following(text[:, :end])
        error = np.abs(found - expected[:, end - 1]).max()
        assert error <= 8 * step * np.abs(expected).max()


def test_a_token_sees_none_that_follow(small):
    model = gpt("float32")
    text = np.zeros([1, 12], "int32")
    other = text.copy()
    other[0, 7:] = 65
    first, second = model(text)[0], model(other)[0]
    np.testing.assert_array_equal(first[:7], second[:7])
    assert np.any(first[7] != second[7])


def test_bytes_are_drawn_as_likely_as_they_are():
    scores = np.log([[0.5, 0.3, 0.2]])
    choose = language.sampler(0, temperature=1.0)
    drawn = np.concatenate([choose(scores) for _ in range(4000)])
    shares = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.03)
