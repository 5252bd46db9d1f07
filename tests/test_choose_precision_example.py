"""Runs the example of a precision chosen by measurement, on a few images."""

from __future__ import annotations

import json
import re

import choose_precision as example
import pytest
from absl import flags
from absl.testing import flagsaver

import tfmp

FLAGS = flags.FLAGS
TINY = ("--width=16", "--images=200", "--epochs=1", "--samples=32")
MORE = ("--measure", "--batch_size=100")


@pytest.fixture(scope="module", autouse=True)
def defined():
    """The flags of the example, for as long as its tests run."""
    before = set(FLAGS)
    example.define_flags()
    yield
    for name in set(FLAGS) - before:
        delattr(FLAGS, name)


@pytest.mark.slow
def test_a_run(tmp_path, capsys):
    """Of a batch so large that FP8 pays, also with 1024 columns."""
    saved = flagsaver.save_flag_values()
    FLAGS(["choose_precision", *TINY, *MORE, f"--output={tmp_path}"])
    try:
        example.main(["choose_precision"])
    finally:
        flagsaver.restore_flag_values(saved)
    text = capsys.readouterr().out
    assert "estimated against float32" in text
    assert "measured against float32" in text
    rank = re.search(r"loss_rms +(\d\.\d+)", text)
    assert float(rank[1]) > 0.8
    for row in ("mixed_bfloat16", "mixed_float8", "chosen"):
        assert re.search(rf"^{row} +\d\.\d+ +\d+\.\d+ %$", text, re.MULTILINE)
    results = json.loads((tmp_path / "results.json").read_text())
    best = results["search"]["best"]
    assert best["loss_increase"] <= results["search"]["budget"]["loss_increase"]
    saved_map = tfmp.PrecisionMap.load(tmp_path / "map.json")
    assert {path: saved_map[path].name for path in best["choice"]} == (
        best["choice"]
    )
    for name in ("sensitivity.png", "frontier.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
