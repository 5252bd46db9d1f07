"""What is read of a log, also of one that is torn, old or odd."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import scale_logs

from tfmp import checkpoints
from tfmp._support import advice, sealed_files
from tfmp._support.changes import Change
from tfmp.reporting import curves, logs, page, ranking, verdicts
from tfmp.reporting.analysis import analyse

DENSE = "m/dense/grads"


def log(folder, *samples, about=None, end="\n"):
    lines = [s if isinstance(s, str) else json.dumps(s) for s in samples]
    folder.mkdir(exist_ok=True)
    text = "\n".join(lines) + end
    (folder / "scales.jsonl").write_text(text, encoding="utf-8")
    if about is not None:
        (folder / "run.json").write_text(about, encoding="utf-8")
    return folder


def test_series_are_aligned_with_the_steps(tmp_path):
    first = {"step": 8, "time": 5.0, "loss_scale": 4.0}
    second = {"step": 16, "time": 6.0, "logs": {"loss": None}}
    third = {"step": 24, f"{DENSE}/amax": 2, "loss_scale": 8.0}
    run = logs.read(log(tmp_path, first, second, third))
    assert run.steps.tolist() == [8, 16, 24]
    np.testing.assert_array_equal(run.values("loss_scale"), [4, np.nan, 8])
    np.testing.assert_array_equal(
        run.values("logs/loss"), [np.nan, np.inf, np.nan]
    )
    np.testing.assert_array_equal(
        run.values(f"{DENSE}/amax"), [np.nan, np.nan, 2]
    )
    assert run.tensors == (DENSE,) and run.last("loss_scale") == 8
    assert math.isnan(run.last("none")) and math.isnan(run.seconds[2])


def test_a_layer_path_keeps_its_slashes(tmp_path):
    sample = {"step": 1, "a/b/c/inputs/scale": 2.0, "other/key": 1.0}
    run = logs.read(log(tmp_path, {**sample, "inputs/scale": 1.0}))
    assert run.tensors == ("a/b/c/inputs",)


def test_a_torn_last_line_is_left_out_in_silence(tmp_path):
    run = logs.read(log(tmp_path, {"step": 1}, '{"step": 2, "lo', end=""))
    assert run.steps.tolist() == [1]
    assert len(run.notes) == 1 and "run.json" in run.notes[0]


def test_broken_lines_are_noted(tmp_path):
    odd = ("nothing", "[1]", '{"step": "x"}', '{"step": 1e999}', "[" * 9999)
    unknown = {"step": 3, "new": {"a": [1]}, "histograms": {"a": 1}, "b": True}
    run = logs.read(log(tmp_path, *odd, unknown, "", about="{}"))
    assert run.steps.tolist() == [3] and run.histograms == {}
    assert run.notes == ("5 lines of scales.jsonl are not samples.",)


def test_where_steps_go_back_the_newer_samples_hold(tmp_path):
    samples = [{"step": s, "loss_scale": float(s)} for s in (8, 16, 24)]
    again = [{"step": s, "loss_scale": -float(s)} for s in (16, 20)]
    run = logs.read(log(tmp_path, *samples, *again, about="{}"))
    assert run.steps.tolist() == [8, 16, 20]
    assert run.values("loss_scale").tolist() == [8, -16, -20]
    assert "1 samples were written again" in run.notes[0]


def test_what_the_monitor_said_is_kept_unless_it_was_undone(tmp_path):
    lines = [
        {"step": 2, "findings": ["a: 41% of gradients underflow"]},
        {"step": 4, "findings": ["b", "c"]},
        {"step": 3, "findings": 7},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "scales.jsonl").write_text(text)
    said = logs.read(tmp_path).said
    assert said == ((2, "a: 41% of gradients underflow"),)


def test_changes_are_kept_unless_they_were_undone(tmp_path):
    """A line with nothing else is no sample: it goes with the one before."""
    made = [
        Change(step, 0, "up", "net/a", "mixed_float8", "float32", "because")
        for step in (2, 7, 8)
    ]
    first, second, third = (change.to_dict() for change in made)
    value = {"loss_scale": 2.0}
    lines = [
        {"step": 4, **value, "changes": [first, {"step": 3}, "odd"]},
        {"step": 8, **value, "changes": [second]},
        {"step": 8, "epoch": 0, "time": 5.0, "changes": [third]},
    ]
    run = logs.read(log(tmp_path / "a", *lines))
    assert list(run.changes) == made and run.steps.tolist() == [4, 8]
    assert run.values("loss_scale").tolist() == [2, 2]
    again = {"step": 6, **value}
    run = logs.read(log(tmp_path / "b", *lines, again))
    assert list(run.changes) == made[:1] and run.steps.tolist() == [4, 6]


def test_formats_are_those_of_run_json_else_hybrid(tmp_path):
    about = {"tensors": {DENSE: {"format": "E4M3"}}}
    run = logs.read(log(tmp_path, {"step": 1}, about=json.dumps(about)))
    assert run.format(DENSE) == "E4M3" and run.notes == ()
    assert run.format("x/grads") == "E5M2" and run.format("x/inputs") == "E4M3"


@pytest.mark.parametrize("about", ["", "[]", '{"tensors": 3}', "[" * 9999])
def test_a_broken_run_json_is_noted(tmp_path, about):
    run = logs.read(log(tmp_path, {"step": 1}, about=about))
    assert run.about == {} and "run.json is not" in run.notes[0]


def test_the_newest_histogram_is_kept(tmp_path):
    bad = [3, ["x"]], [None, [1]], [1, [-1]], "no"
    samples = [
        {"step": at, "histograms": {DENSE: histogram}}
        for at, histogram in enumerate(([-4, [1, 2]], [-5, [3, 4]], *bad), 1)
    ]
    run = logs.read(log(tmp_path, *samples))
    assert run.histograms == {DENSE: logs.Histogram(2, -5, (3.0, 4.0))}


def test_the_file_itself_will_do(tmp_path):
    log(tmp_path, {"step": 1})
    assert logs.read(tmp_path / "scales.jsonl").folder == tmp_path


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"`log_dir` must be a folder .*nope"):
        logs.read(tmp_path / "nope")
    with pytest.raises(ValueError, match=r"with scales.jsonl in it\. Rec"):
        logs.read(tmp_path)
    log(tmp_path / "one", "")
    with pytest.raises(ValueError, match=r"These are: \S+one\. Received"):
        logs.read(tmp_path)
    with pytest.raises(ValueError, match="none was written"):
        logs.read(tmp_path / "one")
    with pytest.raises(TypeError, match="`log_dir`"):
        logs.read(3)


def test_names_are_short_and_differ(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for folder in folders:
        folder.parent.mkdir()
        log(folder, {"step": 1})
    runs = [logs.read(folder) for folder in folders]
    assert logs.names(runs) == ["a/run", "b/run"]
    assert logs.names(runs[:1]) == ["run"] and logs.names([]) == []


# What the numbers mean.


@pytest.mark.parametrize("measure", ranking.LIMITS)
def test_a_measure_at_its_limit_has_badness_one(measure):
    limit = ranking.LIMITS[measure]
    assert ranking.badness(measure, limit) == pytest.approx(1)
    worse = limit - 20 if measure == "sqnr" else 10 * limit
    assert ranking.badness(measure, worse) == pytest.approx(10)
    assert math.isnan(ranking.badness(measure, math.nan))


def test_the_worst_tensor_is_the_first_and_unknown_ones_are_last(tmp_path):
    sample = {
        "step": 1,
        "m/none/inputs/amax": 1.0,
        "m/fine/inputs/sqnr": 31.0,
        "m/noisy/inputs/sqnr": 10.0,
        "m/late/grads/saturation_share": 0.9,
        "m/late/grads/lag": 9.0,
        "m/late/grads/amax": 3.0,
    }
    found = ranking.rank(logs.read(log(tmp_path, sample)))
    paths = [each.tensor.split("/")[1] for each in found]
    assert paths == ["late", "noisy", "fine", "none"]
    assert [each.is_bad for each in found] == [True, True, False, False]
    assert found[0].because == "saturation_share"
    assert found[0].amax == 3.0 and found[0].measures["lag"] == 9.0
    assert found[3].to_dict()["badness"] is None
    json.dumps([each.to_dict() for each in found], allow_nan=False)


def test_the_first_samples_are_forgiven():
    shares = np.array([0.9, 0.9, np.nan, 0.1, 0.3])
    assert ranking.typical("underflow_share", shares) == pytest.approx(0.2)
    lags = np.linspace(0, 1, 21)
    assert ranking.typical("lag", lags) == pytest.approx(0.95)
    assert math.isnan(ranking.typical("lag", np.array([np.nan, np.inf])))


def said(folder, *samples):
    run = logs.read(log(folder, *samples))
    return verdicts.findings(run, ranking.rank(run))


@pytest.mark.parametrize(
    ("late", "level", "text"),
    [
        ({"logs": {"loss": 0.5}}, "good", "fell from 2 to 0.5"),
        ({"logs": {"loss": 3.0}}, "worth a look", "did not fall"),
        ({"logs": {"loss": None}}, "bad", "not finite"),
        ({"skipped_steps": 0}, "good", "None of 1000 steps"),
        ({"skipped_steps": 2}, "good", "2 of 1000"),
        ({"skipped_steps": 20}, "worth a look", "2 %"),
        ({"skipped_steps": 200}, "bad", "find_nonfinite"),
        ({"loss_scale": 1024.0}, "good", "was always 1024"),
        ({"loss_scale": 0.25}, "worth a look", "overflow"),
        ({"lost_updates_share": 0.01}, "good", "too small"),
        ({"lost_updates_share": 0.5}, "worth a look", "mixed_"),
        ({f"{DENSE}/sqnr": 30.0}, "good", "room for all of the one tensor"),
        ({f"{DENSE}/sqnr": 15.0}, "worth a look", "SQNR 15.0 dB"),
        ({f"{DENSE}/saturation_share": 0.02}, "bad", "2 % clipped"),
        ({f"{DENSE}/amax": 2.0}, "worth a look", "no statistics"),
        ({f"{DENSE}/sqnr": 9.0, f"{DENSE}/lag": -5}, "worth a look", "shorter"),
        ({f"{DENSE}/sqnr": 9.0, f"{DENSE}/lag": 2}, "worth a look", "margin"),
        ({f"{DENSE}/sqnr": 9.0}, "worth a look", "'mixed_bfloat16'"),
        (
            {"findings": ["net/a: bad"]},
            "worth a look",
            "step 1000. net/a: bad.",
        ),
        ({}, "worth a look", "No layer of the model is in FP8"),
    ],
)
def test_verdicts(tmp_path, late, level, text):
    early = (
        {"step": 1, "logs": {"loss": 2.0}} if "logs" in late else {"step": 1}
    )
    found = said(tmp_path, early, {"step": 1000, **late})
    assert [f.level for f in found if text in f.text] == [level]


WARNED = (
    "m/dense: 30% of gradients underflow to zero; use tfmp.set_precision(...)"
)


@pytest.mark.parametrize(
    ("after", "level", "text"),
    [
        ({f"{DENSE}/underflow_share": 0.3}, "worth a look", "set_precision"),
        ({f"{DENSE}/underflow_share": 0.0}, "good", "well in the newest"),
        ({"m/b/inputs/sqnr": 31.0}, "good", "it has left FP8 since"),
    ],
)
def test_what_was_mended_is_not_shouted(tmp_path, after, level, text):
    wrong = {f"{DENSE}/underflow_share": 0.3, "findings": [WARNED]}
    found = said(tmp_path, {"step": 1, **wrong}, {"step": 2, **after})
    [warned] = [f for f in found if f.text.startswith("The monitor warned")]
    assert warned.level == level and text in warned.text
    assert ("set_precision" in warned.text) == (level != "good")


def test_a_tensor_that_has_left_fp8_is_not_the_worst(tmp_path):
    wrong = {f"{DENSE}/underflow_share": 0.9, "m/b/inputs/sqnr": 31.0}
    found = said(
        tmp_path, {"step": 1, **wrong}, {"step": 2, "m/b/inputs/sqnr": 31.0}
    )
    assert [f.text for f in found] == [
        "FP8 has room for all of the one tensor."
    ]


def test_a_layer_that_went_up_has_left_fp8_though_it_is_measured(tmp_path):
    layer, _, _ = DENSE.rpartition("/")
    names = layer, "mixed_float8", "mixed_bfloat16"
    change = Change(2, 0, "up", *names, "why").to_dict()
    wrong = {f"{DENSE}/underflow_share": 0.9, "findings": [WARNED]}
    found = said(
        *(tmp_path, {"step": 1, **wrong}),
        {"step": 2, f"{DENSE}/underflow_share": 0.9, "changes": [change]},
    )
    assert not any("FP8 is tight" in each.text for each in found)
    [warned] = [f for f in found if f.text.startswith("The monitor warned")]
    assert "it has left FP8 since" in warned.text


def test_a_loss_that_is_finite_again_is_mended(tmp_path):
    wrong = {"logs": {"loss": None}, "findings": [advice.NOT_FINITE]}
    found = said(
        tmp_path, {"step": 1, **wrong}, {"step": 2, "logs": {"loss": 1}}
    )
    [warned] = [f for f in found if "warned" in f.text]
    assert warned.level == "good" and "finite in the newest" in warned.text


def test_the_curve_has_the_losses_of_steps_and_no_constant_scale(tmp_path):
    samples = [
        {"step": at, "loss_scale": 8.0, "logs": {"loss": 1, "step_loss": at}}
        for at in (1, 2)
    ]
    run = logs.read(log(tmp_path, *samples))
    assert run.losses.tolist() == [1, 2] and not run.varies("loss_scale")
    caption = curves.draw({"run": run}, "loss").caption
    assert "that of the sampled steps" in caption
    assert "The loss scale was always 8." in caption
    words = [finding.text for finding in verdicts.findings(run, [])]
    assert any("from 1 to 2" in text for text in words)


def test_the_worst_is_said_first(tmp_path):
    loss = {"logs": {"loss": 1.0}}
    last = {"step": 9, "skipped_steps": 8, "loss_scale": 1.0}
    found = said(tmp_path, {"step": 1, **loss}, {**last, "logs": {"loss": 0.5}})
    assert [f.level for f in found] == ["bad", "worth a look", "good"]


def test_nothing_is_good_about_a_loss_that_is_none(tmp_path):
    last = {"step": 9, "logs": {"loss": None}, f"{DENSE}/sqnr": 31.0}
    assert [found.level for found in said(tmp_path, last)] == ["bad"]


def test_a_written_log_is_read_as_it_was_meant(tmp_path):
    run = logs.read(scale_logs.write(tmp_path, layers=4, samples=10))
    assert len(run.tensors) == 12 and len(run.histograms) == 12
    assert run.about["model"] == "gpt" and run.notes == ()
    worst = ranking.rank(run)[0]
    assert worst.tensor == "gpt/block_1/ffn_1/grads"
    old = scale_logs.write(tmp_path / "old", samples=2, statistics=False)
    assert {each.because for each in ranking.rank(logs.read(old))} == {""}


def test_numbers_that_are_out_of_all_proportion_are_reported(tmp_path):
    huge = {"time": 1e308, f"{DENSE}/underflow_share": 1e308}
    odd = {"histograms": {DENSE: [10**400, [1.0]]}}
    first = {"step": 1, "time": 0.0}
    folder = log(tmp_path, first, {"step": 2, **huge, **odd}, {"step": 10**400})
    (found,) = analyse([folder])
    text = page.render([found], [[]], [])
    assert "unknown" in str(text) and found.run.steps.tolist() == [1, 2]
    assert not found.run.histograms


def test_a_weights_file_whose_head_has_an_infinite_shape(tmp_path):
    path = tmp_path / "a.weights.h5"
    head = {"seeds": [["float32", [math.inf], ""]]}
    sealed_files.write(path, lambda: io.BytesIO(b"body"), head)
    with pytest.raises(ValueError, match="but its head is not"):
        checkpoints.read_notes(path)
