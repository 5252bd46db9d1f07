"""The examples on Jane Austen's novels: reading, GPT with a cache, BERT."""

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
from examples import fine_tuning, language, novels
from examples.harness import files
from examples.harness.settings import Settings, Size

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


def test_names_come_first_and_are_written_with_a_capital():
    text = "The Emma . I said the thing to Emma , the Emma . Mr Elton said"
    numbers = novels.vocabulary([text])
    assert [numbers[name] for name in ("Emma", "Elton")] == [3, 4]
    others = {number for word, number in numbers.items() if word != "Emma"}
    assert min(others - {4}) == novels.NAMES
    assert max(numbers.values()) < novels.WORDS
    assert "I" in numbers and numbers["I"] >= novels.NAMES


def test_a_passage_is_of_one_novel():
    x, y = novels.passages(["a b c d e", "c c c"], {"a": 5, "c": 7}, 2)
    assert x.tolist() == [[5, 1], [7, 1], [7, 7]]
    assert y.tolist() == [0, 0, 1]


def test_half_of_the_names_are_masked_and_to_be_guessed():
    random = np.random.default_rng(0)
    x = random.integers(0, 2 * novels.NAMES, [100, 64])
    hidden, names = fine_tuning.masked(x, seed=0)
    chosen = hidden == novels.MASK
    np.testing.assert_array_equal(hidden[names == 0], x[names == 0])
    np.testing.assert_array_equal(names[names > 0], x[names > 0])
    assert np.all(chosen[names > 0])
    is_name = (x >= novels.FIRST) & (x < novels.NAMES)
    assert np.mean(names[is_name] > 0) == pytest.approx(0.5, abs=0.03)
    assert np.all(names[~is_name] == 0)


def test_the_loss_is_of_masked_names_only():
    made = fine_tuning.pretraining(pathlib.Path())
    y, scores = np.array([[0, 3]]), np.zeros([1, 2, 4], "float32")
    scores[0, 0, 1] = 9.0  # where no name is to be guessed
    metric = made.metric.make()
    metric.update_state(y, scores)
    found = [float(made.loss()(y, scores)), float(metric.result())]
    assert found == pytest.approx(2 * [np.log(4)])


@pytest.fixture
def pretrained(tmp_path) -> pathlib.Path:
    keras.utils.set_random_seed(3)
    path = tmp_path / "encoder.weights.h5"
    fine_tuning.encoder().save_weights(path)
    return path


def test_lora_begins_with_what_was_pretrained(pretrained):
    keras.utils.set_random_seed(0)
    plain = fine_tuning.model(None, pretrained)
    keras.utils.set_random_seed(0)
    adapted = fine_tuning.with_lora(None, pretrained)
    x = np.arange(256, dtype="int32").reshape(2, fine_tuning.LENGTH)
    np.testing.assert_array_equal(plain(x), adapted(x))
    frozen = {w.path for w in adapted.non_trainable_variables}
    kernels = {w.path for w in plain.variables if w.path.endswith("/kernel")}
    assert kernels - frozen == {"novel/kernel"}
    factors = adapted.count_params() - plain.count_params()
    assert factors == 4 * (3 * (256 + 16) + (64 + 64) + 2 * (64 + 256))


@pytest.mark.slow
def test_all_ways_from_pretrained_to_fine_tuned(monkeypatch):
    """Of each policy, the one that it is fine-tuned in too is its own."""
    words = [f"it said {name.title()} , then" for name in novels.NOVELS]
    texts = [" ".join([text] * 300) for text in words]
    monkeypatch.setattr(novels, "read", lambda data_dir: texts)
    made = fine_tuning.EXAMPLE
    data = made.data(Size.SMOKE, pathlib.Path())
    chosen = Settings(epochs=1, batch_size=16, jit_compile=False)
    for policy, other in (
        ("mixed_bfloat16", "then float8"),
        (FLOAT8, "then bfloat16"),
    ):
        run = made.train(made, policy, 0, data, chosen)
        found = run["afterwards"]
        assert found[other] is not None and found["LoRA"] is not None
        assert found[fine_tuning.WAYS[policy]] is None
        assert run["products"]["fallbacks"] == 0
        in_float8 = run["pretraining"]["products"]["float8"]
        assert (in_float8 > 0) is (policy == FLOAT8)
