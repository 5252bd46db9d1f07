"""The examples that speak and write: prompts, CTC, contrast, beam search."""

from __future__ import annotations

import pathlib

import keras
import made_up_prompts
import numpy as np
import pytest

import tfmp
from examples import (
    beam_search,
    prompts,
    retrieval,
    speech,
    text_metrics,
    translation,
)
from examples.harness import example, files, training
from examples.harness.settings import Settings, Size

FLOAT8 = "mixed_float8"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("prompts")
    made_up_prompts.write(folder)
    return folder


def prompt(language: str, name: str, text: str) -> prompts.Prompt:
    return prompts.Prompt(language, name, text, pathlib.Path())


def test_what_is_not_read_as_written_is_left_out():
    lines = """\ufeff; Sounds
activated: Activ\u00e9,  d\u2019accord!
beep: [this is a simple tone]
digits/1: 1
lost: sar? esattamente
silence/1: (1 second of silence)
empty:
time: At 12: noon
word: \u041d\u043e\u0301\u0432\u044b\u0439: \u0451\u0436
"""
    assert prompts.transcripts(lines.encode()) == [
        ("activated", "active d'accord"),
        ("word", "\u043d\u043e\u0432\u044b\u0438 \u0435\u0436"),
    ]


def test_the_first_of_equal_texts_is_kept(downloads):
    read = prompts.read(downloads, ["it", "es"])
    texts = [(x.language, x.text) for x in read]
    assert len(set(texts)) == len(texts)
    assert 100 < len(texts) < 2 * made_up_prompts.COUNT
    assert {len(prompts.samples(x)) for x in read} == {6000}


def test_a_name_decides_what_is_to_validate(downloads):
    read = prompts.read(downloads, prompts.VOICES)
    parts = {(x.name, x.to_validate) for x in read}
    assert len(parts) == len({x.name for x in read})
    assert 0.02 < np.mean([x.to_validate for x in read]) < 0.3


def test_missing_prompts_are_named_with_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path / "none")
    wanted = "apt-get download asterisk-core-sounds-it asterisk-core-sounds-it"
    with pytest.raises(files.MissingDataError, match=wanted):
        prompts.read(tmp_path, ["it"])


def test_a_spectrum_shows_the_tone():
    time = np.arange(prompts.RATE) / prompts.RATE
    tones = [np.sin(2 * np.pi * f * time) for f in (500, 2000)]
    x = prompts.log_mel(np.concatenate(tones).astype("float32"))
    assert x.shape == (1 + (16000 - 200) // 80, prompts.BANDS)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)
    low, high = x[:90].mean(axis=0), x[110:].mean(axis=0)
    assert np.argmax(low - high) < np.argmax(high - low)


def test_pairs_are_of_one_name_and_the_languages_wanted():
    read = [
        prompt(language, name, text)
        for name, text in (("a", "one"), ("b", "very long"))
        for language in ("en", "es", "fr")
    ]
    found = prompts.pairs(read, ("en", "fr"), ("es",), 5)
    assert [(a.language, b.language, a.name, b.name) for a, b in found] == [
        ("en", "es", "a", "a"),
        ("fr", "es", "a", "a"),
    ]


@pytest.mark.parametrize(
    ("first", "second", "errors"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("abc", "xabc", 1),
        ("flaw", "lawn", 2),
    ],
)
def test_distance_is_of_edits(first, second, errors):
    assert text_metrics.distance(first, second) == errors
    assert text_metrics.distance(second, first) == errors


def test_error_rate_is_of_all_texts_together():
    assert text_metrics.error_rate(["abcd", "ab"], ["abxd", "a"]) == 2 / 6


@pytest.mark.parametrize(
    ("right", "found", "score"),  # of sacrebleu 2.6, corpus_chrf
    [
        (
            ["el buzon esta lleno", "gracias"],
            ["el buzon lleno", "gracia"],
            57.96862021013086,
        ),
        (["la casa"], ["la casa"], 100),
        (["abc"], ["xyz"], 0),
        (["uno"], ["un dos tres"], 34.37499999999999),
        (
            ["presione uno para salir", "ocho", "pin invalido"],
            ["presione dos para ir", "ocho", ""],
            35.23641906240984,
        ),
    ],
)
def test_chrf_is_that_of_sacrebleu(right, found, score):
    assert 100 * text_metrics.chrf(right, found) == pytest.approx(score)


def test_greedy_decoding_drops_repetitions_and_blanks():
    best = np.array([[0, 3, 3, 0, 3, 7, 7], [7, 7, 0, 0, 0, 0, 7]])
    logits = np.eye(speech.CLASSES)[best]
    assert speech.greedy(logits) == [[3, 3, 7], [7, 7]]
    assert speech.read([3, 3, 7]) == (3, [7])
    assert speech.read([7, 7]) == (0, [7, 7])


def test_a_label_fits_its_frames():
    """Of a label that does not, TensorFlow says a loss of some hundreds."""
    cases = (("abba", 24), ("abba", 23), ("abcd", 20), ("abcd", 19))
    for text, frames in cases:
        labels = speech.tokens(prompt("it", "a", text))[None]
        logits = np.zeros([1, frames // speech.SUBSAMPLING, speech.CLASSES])
        loss = float(keras.losses.CTC()(labels, logits.astype("float32")))
        assert speech.fits(text, frames) == (loss < 100)


def test_the_language_leads_the_label(downloads):
    x, y = speech.data(Size.SMOKE, downloads).train
    assert x.shape[1:] == (100, prompts.BANDS)
    assert set(y[:, 0]) == {speech.LANGUAGES["it"], speech.LANGUAGES["es"]}
    assert y.max() < speech.CLASSES


def test_contrast_is_the_cross_entropy_of_both_sides():
    logits = np.array([[2.0, 1.0], [0.5, 3.0]], "float32")
    chance = [
        np.exp(x[0]) / np.exp(x).sum()
        for x in ([2, 1], [3, 0.5], [2, 0.5], [3, 1])
    ]
    loss = retrieval.SymmetricCrossEntropy()(np.zeros(2), logits)
    assert float(loss) == pytest.approx(-np.mean(np.log(chance)))


def test_recall_is_the_share_of_the_diagonal():
    logits = np.array([[3, 1, 2], [5, 4, 0], [0, 1, 2]])
    assert retrieval.recall(logits) == pytest.approx(2 / 3)


@pytest.mark.parametrize("policy", ["mixed_float16", FLOAT8])
def test_cosines_and_their_scale_stay_in_float32(policy, downloads):
    model = retrieval.model(retrieval.data(Size.SMOKE, downloads))
    tfmp.convert(model, policy, filter="all")
    layer = model.get_layer("similarity")
    assert layer.compute_dtype == "float32"
    layer.log_scale.assign(10)
    x = np.eye(4, dtype="float16")
    np.testing.assert_allclose(layer(x, 2 * x), 100 * x, rtol=1e-6)


def table(so_far: np.ndarray, at: int) -> np.ndarray:
    """Chances of what follows a token: greedy takes 3, though 4 is better."""
    follows = {1: [0.6, 0.4, 0], 3: [0.4, 0.3, 0.3], 4: [0.01, 0, 0.99]}
    rows = [follows[x] if x in follows else [0, 0, 1] for x in so_far[:, at]]
    three, four, end = np.log(np.maximum(rows, 1e-9)).T
    never = np.full_like(end, 9.0)  # padding and START are never written
    return np.stack([never, never, end, three, four], axis=1)


def test_a_beam_finds_what_greedy_misses():
    greedy = beam_search.search(table, count=2, length=3, beams=1)
    np.testing.assert_array_equal(greedy, [[3, 3, 3]] * 2)
    found = beam_search.search(table, count=2, length=3, beams=3)
    np.testing.assert_array_equal(found, [[4, 2, 0]] * 2)


def test_targets_are_shifted_and_sources_say_the_language(downloads):
    (source, target), right = translation.data(Size.SMOKE, downloads).train
    np.testing.assert_array_equal(target[:, 1:], right[:, :-1])
    assert set(target[:, 0]) == {beam_search.START}
    assert set(source[:, 0]) == {translation.LANGUAGES["es"]}
    text = translation.text(right[0])
    assert len(text) == 7 and text[:3] == text[:3:-1]


def test_padding_and_what_comes_later_are_not_seen(downloads):
    data = translation.data(Size.SMOKE, downloads)
    model = translation.model(data)
    source, target = (x[:2] for x in data.train[0])
    before = np.array(model((source, target)))
    assert (source[:, -1] == beam_search.PADDING).all()
    for variable in model.get_layer("encoder").trainable_variables:
        if variable.shape[0] == translation.CLASSES:
            changed = variable.numpy()
            changed[beam_search.PADDING] += 9
            variable.assign(changed)
    later = target.copy()
    later[:, 5:] = 9
    np.testing.assert_allclose(
        np.array(model((source, later)))[:, :5], before[:, :5], atol=1e-5
    )


def test_a_measured_metric_is_taken_after_each_epoch():
    x, y = np.ones([32, 4], "float32"), np.ones([32, 1], "float32")
    values = iter([0.25, 0.5])
    made = example.Example(
        name="measured",
        field="tests",
        says="a dense layer on ones",
        data=lambda size, data_dir: example.Data((x, y), (x, y)),
        model=lambda data: keras.Sequential(
            [keras.Input([4]), keras.layers.Dense(1)]
        ),
        optimizer=lambda steps: keras.optimizers.SGD(0.1),
        loss=keras.losses.MeanSquaredError,
        metric=example.Metric(
            "half", factor=100, measure=lambda model, data: next(values)
        ),
        epochs=2,
        batch_size=16,
        passes=3,
    )
    chosen = Settings(("float32",), seeds=1, jit_compile=False)
    run = training.train(
        made, "float32", 0, example.Data((x, y), (x, y)), chosen
    )
    assert run["curve"] == [25, 50]
    assert run["metric"] == 50
    assert len(run["loss"]) == 2
